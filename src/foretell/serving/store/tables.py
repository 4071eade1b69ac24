"""The tables of a store, one description for both engines."""

from __future__ import annotations

import re

VERSION = 1

# {bytes} and {serial} are what an engine calls them; {without} ends tables that are their own
# index in SQLite.
TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS message (
  source TEXT NOT NULL, control TEXT NOT NULL, content {bytes} NOT NULL, kind TEXT NOT NULL,
  received {real} NOT NULL, PRIMARY KEY (source, control, content)){without};
CREATE TABLE IF NOT EXISTS seen (key {bytes} PRIMARY KEY){without};
CREATE TABLE IF NOT EXISTS event (
  seq {serial}, part INTEGER NOT NULL, site TEXT NOT NULL, patient TEXT NOT NULL,
  kind TEXT NOT NULL, time {real} NOT NULL, received {real} NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS event_part ON event (part, seq);
CREATE INDEX IF NOT EXISTS event_patient ON event (site, patient, seq);
CREATE TABLE IF NOT EXISTS alias (
  site TEXT NOT NULL, prior TEXT NOT NULL, patient TEXT NOT NULL, PRIMARY KEY (site, prior));
CREATE TABLE IF NOT EXISTS quarantine (
  key {bytes} PRIMARY KEY, site TEXT NOT NULL, reason TEXT NOT NULL, system TEXT NOT NULL,
  code TEXT NOT NULL, unit TEXT NOT NULL, received {real} NOT NULL, body TEXT);
CREATE INDEX IF NOT EXISTS quarantine_code ON quarantine (system, code);
CREATE TABLE IF NOT EXISTS lease (
  kind TEXT NOT NULL, part INTEGER NOT NULL, owner TEXT, token BIGINT NOT NULL,
  expires {real} NOT NULL, applied BIGINT NOT NULL, PRIMARY KEY (kind, part));
CREATE TABLE IF NOT EXISTS worker (
  kind TEXT NOT NULL, name TEXT NOT NULL, expires {real} NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS state (
  site TEXT NOT NULL, patient TEXT NOT NULL, part INTEGER NOT NULL, due {real}, risk {real},
  body {bytes} NOT NULL, shown TEXT, PRIMARY KEY (site, patient));
CREATE INDEX IF NOT EXISTS state_due ON state (part, due);
CREATE TABLE IF NOT EXISTS owed (
  site TEXT NOT NULL, patient TEXT NOT NULL, part INTEGER NOT NULL, hour INTEGER NOT NULL,
  PRIMARY KEY (site, patient));
CREATE TABLE IF NOT EXISTS cell (
  site TEXT NOT NULL, patient TEXT NOT NULL, stay TEXT NOT NULL, hour INTEGER NOT NULL,
  body {bytes} NOT NULL, PRIMARY KEY (site, patient, stay, hour));
CREATE TABLE IF NOT EXISTS score (
  site TEXT NOT NULL, patient TEXT NOT NULL, stay TEXT NOT NULL, hour INTEGER NOT NULL,
  time {real} NOT NULL, risk {real}, issued {real}, status TEXT NOT NULL, model TEXT NOT NULL,
  reason TEXT, drivers TEXT NOT NULL, PRIMARY KEY (site, patient, stay, hour));
CREATE INDEX IF NOT EXISTS score_time ON score (site, time);
CREATE TABLE IF NOT EXISTS outbox (
  id {serial}, part INTEGER NOT NULL, site TEXT NOT NULL, patient TEXT NOT NULL,
  key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, time {real} NOT NULL, body TEXT NOT NULL,
  created {real} NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due {real} NOT NULL DEFAULT 0,
  status TEXT NOT NULL DEFAULT 'waiting', error TEXT);
CREATE INDEX IF NOT EXISTS outbox_waiting ON outbox (part, id) WHERE status = 'waiting';
CREATE INDEX IF NOT EXISTS outbox_patient ON outbox (site, patient, id) WHERE status = 'waiting';
CREATE INDEX IF NOT EXISTS outbox_notes ON outbox (site, patient, id);
CREATE INDEX IF NOT EXISTS outbox_part ON outbox (part, id);
CREATE TABLE IF NOT EXISTS subscription (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, part INTEGER NOT NULL, status TEXT NOT NULL,
  error TEXT, body TEXT NOT NULL, version BIGINT NOT NULL, since {real} NOT NULL,
  changed {real} NOT NULL, events BIGINT NOT NULL, noted BIGINT NOT NULL, period {real},
  beat {real});
CREATE TABLE IF NOT EXISTS subscribed (
  subscription TEXT NOT NULL, number BIGINT NOT NULL, source TEXT NOT NULL, time {real} NOT NULL,
  focus TEXT NOT NULL, PRIMARY KEY (subscription, number)){without};
CREATE TABLE IF NOT EXISTS heard (
  site TEXT NOT NULL, subscription TEXT NOT NULL, last BIGINT NOT NULL, missing TEXT NOT NULL,
  status TEXT NOT NULL, seen {real} NOT NULL, PRIMARY KEY (site, subscription));
CREATE TABLE IF NOT EXISTS used_token (
  issuer TEXT NOT NULL, token TEXT NOT NULL, expires {real} NOT NULL,
  PRIMARY KEY (issuer, token)){without};
CREATE INDEX IF NOT EXISTS used_token_expires ON used_token (expires);
CREATE TABLE IF NOT EXISTS audit (
  id {serial}, time {real} NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  subject TEXT NOT NULL, purpose TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS control (
  id {serial}, time {real} NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  subject TEXT NOT NULL, purpose TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS event_ladder ON event (part, seq) WHERE kind = 'ladder';
CREATE TABLE IF NOT EXISTS journal (
  id {serial}, part INTEGER NOT NULL, at BIGINT NOT NULL, site TEXT NOT NULL,
  patient TEXT NOT NULL, version TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS journal_part ON journal (part, id);
CREATE TABLE IF NOT EXISTS shadow (
  site TEXT NOT NULL, patient TEXT NOT NULL, stay TEXT NOT NULL, hour INTEGER NOT NULL,
  version TEXT NOT NULL, unit TEXT NOT NULL, risk {real}, status TEXT NOT NULL, alarm TEXT,
  spoke TEXT NOT NULL, said {real}, raised TEXT,
  PRIMARY KEY (site, patient, stay, hour, version));
CREATE TABLE IF NOT EXISTS broken_glass (
  id {serial}, caller TEXT NOT NULL, site TEXT NOT NULL, begin_time {real} NOT NULL,
  until_time {real} NOT NULL, reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS broken_glass_caller ON broken_glass (caller, site);
"""


def names() -> list[str]:
    """The names of the tables."""
    return re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", TABLES)


def statements(*, binary: str, real: str, serial: str, without: str = "") -> list[str]:
    """The statements that make the tables, in an engine's words."""
    words = {"{bytes}": binary, "{real}": real, "{serial}": serial, "{without}": without}
    text = TABLES
    for mark, word in words.items():
        text = text.replace(mark, word)
    return [part.strip() for part in text.split(";") if part.strip()]
