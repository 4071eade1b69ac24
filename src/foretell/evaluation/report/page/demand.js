(function () {
  "use strict";
  var payload = foretellPage.payload, config = foretellPage.config, narrow = foretellPage.narrow;

  // Plotly's labels understand a subset of HTML: names must stay names.
  function literal(text) {
    return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }
  function format(value, places) {
    if (value === null || value === undefined) return "–";
    return value.toLocaleString("en", {
      minimumFractionDigits: places, maximumFractionDigits: places
    }).replace("-", "−");
  }

  // -- series ---------------------------------------------------------------------------------
  var fans = payload.fans;
  var whole = document.getElementById("whole"), current = 0;
  function shade(hex, opacity) {
    var n = parseInt(hex.slice(1), 16);
    return "rgba(" + (n >> 16) + "," + ((n >> 8) & 255) + "," + (n & 255) + "," + opacity + ")";
  }
  function dates(from, length) {
    return fans.dates.slice(from, from + length);
  }
  function bands(traces, from, quantiles, colour, strength, name) {
    var last = fans.levels.length - 1, middle = last / 2;
    for (var i = 0; i < middle; i++) {
      var x = dates(from, quantiles[i].length);
      var text = Math.round(100 * fans.levels[i]) + "–" + Math.round(100 * fans.levels[last - i]) + "%";
      traces.push({
        x: x.concat(x.slice().reverse()),
        y: quantiles[last - i].concat(quantiles[i].slice().reverse()),
        fill: "toself", fillcolor: shade(colour, strength), line: { width: 0 }, mode: "lines",
        hoverinfo: "skip", name: name + " " + text, showlegend: true
      });
    }
    traces.push({
      x: dates(from, quantiles[middle].length), y: quantiles[middle], mode: "lines",
      name: name + " median", line: { color: colour, width: 2 }
    });
  }
  function show(index) {
    current = index;
    var s = fans.series[index], colours = payload.colours, traces = [], shapes = [];
    var numeric = fans.dates.every(function (d) { return /^-?\d+$/.test(d); });
    var horizon = s[4].length, past = s[1];
    if (!whole.checked) past = past.slice(Math.max(0, past.length - Math.max(3 * horizon, 26)));
    var first = s[2] - past.length;
    traces.push({
      x: dates(first, past.length), y: past, mode: "lines", name: "history",
      line: { color: "#1f2933", width: 1.3 }
    });
    bands(traces, s[2], s[3], colours[fans.best], 0.17, literal(fans.best));
    s[5].forEach(function (median, i) {
      if (!median) return;
      traces.push({
        x: dates(s[2], median.length), y: median, mode: "lines", name: literal(fans.others[i]),
        line: { color: colours[fans.others[i]], width: 1.5, dash: "dash" }
      });
    });
    traces.push({
      x: dates(s[2], s[4].length), y: s[4], mode: "markers", name: "what happened",
      marker: { color: "#1f2933", size: 6, symbol: "circle-open", line: { width: 1.6 } }
    });
    if (s[7]) bands(traces, s[6], s[7], "#4d7c5a", 0.2, "next");
    var marked = s[8].filter(function (i) { return i >= first; });
    if (marked.length) {
      traces.push({
        x: marked.map(function (i) { return fans.dates[i]; }), y: marked.map(function () { return 0; }),
        yaxis: "y2", mode: "markers", name: "promotion or event",
        marker: { symbol: "triangle-up", size: 8, color: "#b45309" },
        hovertemplate: "%{x}<extra>promotion or event</extra>"
      });
    }
    [s[2], s[6]].forEach(function (at) {
      if (at === null) return;
      shapes.push({
        type: "line", xref: "x", yref: "paper", x0: fans.dates[at], x1: fans.dates[at], y0: 0, y1: 1,
        line: { color: "#9aa5b1", width: 1, dash: "dot" }
      });
    });
    var axis = {
      gridcolor: "#e4e7eb", linecolor: "#9aa5b1", ticks: "outside", tickcolor: "#9aa5b1",
      ticklen: 4, zeroline: false, automargin: true
    };
    var height = narrow ? 380 : 400;
    document.getElementById("fan").style.height = height + "px";
    Plotly.react("fan", traces, {
      font: { family: "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif", size: 13, color: "#1f2933" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 8, t: 6, b: 30 }, height: height, hovermode: "x unified",
      xaxis: Object.assign({ type: numeric ? "linear" : "date" }, axis),
      yaxis: Object.assign({ rangemode: "tozero" }, axis),
      yaxis2: { overlaying: "y", visible: false, range: [-0.03, 1], fixedrange: true },
      shapes: shapes, legend: { orientation: "h", x: 0, y: -0.12, yanchor: "top", font: { size: 12 } }
    }, config);
    document.getElementById("shown").textContent = fans.ids[index] +
      (s[9] === null ? "" : " — WQL " + s[9].toFixed(3) + " over the whole test");
    document.querySelectorAll(".fan").forEach(function (card) {
      card.setAttribute("aria-pressed", String(Number(card.dataset.index) === index));
    });
    var list = document.getElementById("found");
    if (Number(list.value) !== index || list.selectedIndex < 0) list.value = String(index);
  }
  if (fans) {
    var find = document.getElementById("find"), found = document.getElementById("found");
    var list = function () {
      var wanted = find.value.trim().toLowerCase(), chosen = found.value;
      found.replaceChildren();
      fans.ids.forEach(function (id, i) {
        if (id.toLowerCase().indexOf(wanted) < 0) return;
        var option = document.createElement("option");
        option.value = String(i);
        option.textContent = id;
        found.appendChild(option);
      });
      found.value = chosen;
      document.getElementById("hits").textContent =
        found.options.length + " of " + fans.ids.length + " series";
      if (wanted && found.options.length && found.selectedIndex < 0) show(Number(found.options[0].value));
    };
    find.addEventListener("input", list);
    whole.addEventListener("change", function () { show(current); });
    found.addEventListener("change", function () { show(Number(found.value)); });
    document.querySelectorAll(".fan").forEach(function (card) {
      card.addEventListener("click", function () {
        find.value = "";
        list();
        show(Number(card.dataset.index));
      });
    });
    list();
    show(0);
  }

  // -- orders ---------------------------------------------------------------------------------
  var orders = payload.orders, PAGE = 15;
  if (orders) {
    var table = document.getElementById("order-table"), body = table.tBodies[0];
    var search = document.getElementById("find-order"), page = 0, column = -1, down = true;
    var kept = orders.rows;
    var text = function (value, i) {
      var c = orders.columns[i];
      if (c.text) return value === null ? "" : String(value);
      if (c.name !== "fractile" || value === null) return format(value, c.places);
      return (format(100 * value, 1) + "%").replace(".0%", "%");
    };
    var fill = function () {
      var pages = Math.max(1, Math.ceil(kept.length / PAGE));
      page = Math.min(Math.max(page, 0), pages - 1);
      body.replaceChildren();
      kept.slice(page * PAGE, page * PAGE + PAGE).forEach(function (row) {
        var line = document.createElement("tr");
        row.forEach(function (value, i) {
          if (orders.columns[i].hidden) return;
          var cell = document.createElement("td");
          cell.textContent = text(value, i);
          if (!orders.columns[i].text) cell.className = "n";
          else cell.title = cell.textContent;
          line.appendChild(cell);
        });
        body.appendChild(line);
      });
      document.getElementById("page").textContent = kept.length
        ? page * PAGE + 1 + "–" + Math.min(kept.length, page * PAGE + PAGE) + " of " +
          kept.length.toLocaleString("en")
        : "none found";
      document.getElementById("previous").disabled = page === 0;
      document.getElementById("next").disabled = page === pages - 1;
    };
    var refresh = function () {
      var wanted = search.value.trim().toLowerCase();
      kept = orders.rows.filter(function (row) {
        return !wanted || row.some(function (value, i) {
          return orders.columns[i].text && String(value).toLowerCase().indexOf(wanted) >= 0;
        });
      });
      if (column >= 0) {
        var sign = down ? -1 : 1, isText = orders.columns[column].text;
        kept = kept.slice().sort(function (a, b) {
          var x = a[column], y = b[column];
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * (isText ? String(x).localeCompare(String(y), "en", { numeric: true }) : x - y);
        });
      }
      page = 0;
      fill();
    };
    search.addEventListener("input", refresh);
    table.querySelectorAll("thead button").forEach(function (button) {
      button.addEventListener("click", function () {
        var wanted = Number(button.dataset.column);
        var current = button.parentNode.getAttribute("aria-sort");
        down = current === "none" ? !orders.columns[wanted].text : current === "ascending";
        column = wanted;
        table.querySelectorAll("thead th").forEach(function (head) { head.setAttribute("aria-sort", "none"); });
        button.parentNode.setAttribute("aria-sort", down ? "descending" : "ascending");
        refresh();
      });
    });
    document.getElementById("previous").addEventListener("click", function () { page -= 1; fill(); });
    document.getElementById("next").addEventListener("click", function () { page += 1; fill(); });
    document.getElementById("csv").addEventListener("click", function () {
      // A cell that a spreadsheet would read as a formula is given an apostrophe.
      var quoted = function (value, i) {
        if (value === null) return "";
        if (!orders.columns[i].text) return String(value);
        var cell = /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value);
        return '"' + cell.replace(/"/g, '""') + '"';
      };
      var lines = [orders.columns.map(function (c) { return c.name; }).join(",")];
      kept.forEach(function (row) { lines.push(row.map(quoted).join(",")); });
      var link = document.createElement("a");
      link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(lines.join("\r\n") + "\r\n");
      link.download = "orders.csv";
      document.body.appendChild(link);
      link.click();
      link.remove();
    });
    fill();
  }
})();
