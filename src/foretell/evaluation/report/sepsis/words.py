"""What the page of a run about early warning says in plain words, whatever the figures."""

from __future__ import annotations

MUST_NOT = (
    "It must not be used to treat patients. It was measured on records, not at the bedside; nobody "
    "has shown that its alarms do any good, and it is no medical device.",
    "It must not replace a clinician's judgement: silence is no sign of health. Hours without a "
    "score, and patients it never alarms for, are told of below.",
    "It must not be taken to another hospital, another kind of ward, children, or patients outside "
    "intensive care without being measured there first: every winner of the public challenge was "
    "worse than silence at a hospital none had seen.",
    "It must not rank patients for scarce beds, staff or treatment, judge the quality of a ward "
    "or decide about payment: what was measured, and when, mirrors who was looked after and how.",
    "Its drivers must not be read as causes: they say what moved the score, not what to treat.",
    "Its threshold must not be kept when case mix, devices or laboratories change: watch the "
    "missing rates, the distributions and the rate of alarms, and tune again.",
)
"""What the model must not be used for."""

UTILITY = (
    "The challenge's utility rewards long stays: an alarm from hour 48 on, whoever the patient is, "
    "earns a good part of it. What counts is the margin over that clock."
)

CONVENTIONS = (
    "Published figures of abstaining models leave hours without a score out. At the bedside such "
    "an hour is an hour without an alarm. Both ways of counting stand side by side; only the "
    "second says what patients get. Hours after the onset count too here: those that the gate "
    "turns away are misses in the second way."
)

REPRESENTATIONS = (
    "What leaves a site is no row of a patient but noisy values of the net's first layer. They are "
    "not anonymous by themselves: the audit attacks them as somebody with data of their own would. "
    "It says what such noise hides. Where a recipe gives the noise a seed, a run can be repeated, "
    "and whoever knows the recipe can take the noise off: its bundles are for judging only."
)
