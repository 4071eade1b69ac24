// Draws every figure of the page once it is visible.
var foretellPage = (function () {
  "use strict";
  var payload = JSON.parse(document.getElementById("payload").textContent);
  var config = { displaylogo: false, responsive: true, displayModeBar: false };
  var narrow = window.matchMedia("(max-width: 760px)").matches;

  function visible(element) {
    return element.getClientRects().length > 0;
  }
  function draw(element) {
    var figure = payload.figures[element.dataset.figure];
    if (!figure || element.dataset.drawn || !visible(element)) return;
    element.dataset.drawn = "1";
    // Of a box without a height Plotly takes what is left of it when the window changes: nothing.
    if (figure.layout.height) element.style.height = figure.layout.height + "px";
    Plotly.newPlot(element, figure.data, figure.layout, config);
  }
  function drawAll(root) {
    root.querySelectorAll("[data-figure]").forEach(draw);
  }
  drawAll(document);
  document.querySelectorAll("details").forEach(function (details) {
    details.addEventListener("toggle", function () { if (details.open) drawAll(details); });
  });

  window.addEventListener("beforeprint", function () {
    document.querySelectorAll(".js-plotly-plot").forEach(function (plot) { Plotly.Plots.resize(plot); });
  });
  return { payload: payload, config: config, narrow: narrow };
})();
