"""How numbers, tables and links get onto a page."""

import math

import numpy as np
import pytest

from raysys.report.page import Chapter, Section, duration, figure, number, pairs, render, table
from raysys.report.provenance import provenance, show


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1234567, 4, "1,234,567"),
        (3.0, 4, "3"),
        (np.float64(0.5), 4, "0.5000"),
        (12.3456, 4, "12.35"),
        (12.3456, 2, "12"),
        (4321.5678, 3, "4,322"),
        (-0.0123456, 3, "-0.0123"),
        (0.001, 3, "0.00100"),
        (0.00099, 3, "0.00099"),
        (2.5e-7, 3, "2.5e-07"),
        (123456.7, 4, "1.235e+05"),
        (99999.5, 4, "100,000"),
        (True, 4, "yes"),
        (math.nan, 4, "n/a"),
        (-math.inf, 4, "n/a"),
    ],
)
def test_a_number_is_shown_with_its_leading_digits(value, digits, shown):
    assert number(value, digits) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.25, "0.2 s"),
        (1.5, "1.5 s"),
        (59.9, "59.9 s"),
        (60, "1.0 min"),
        (3599, "60.0 min"),
        (5400, "1.5 h"),
        (0, "n/a"),
        (math.nan, "n/a"),
    ],
)
def test_a_time_is_shown_in_its_unit(seconds, shown):
    assert duration(seconds) == shown


def test_a_table_aligns_numbers_and_marks_the_strong_row():
    made = table(("a.b", "n"), (("x<y", 2.5), ("z", 1)), "two & more", strong=1)
    assert "<th>a.<wbr>b</th>" in made
    assert '<tr><td>x&lt;y</td><td class="number">2.500</td></tr>' in made
    assert '<tr class="strong"><td>z</td><td class="number">1</td></tr>' in made
    assert "<caption>two &amp; more</caption>" in made
    assert pairs({"a": 2, "b": "text"}) == "<dl><dt>a</dt><dd>2</dd><dt>b</dt><dd>text</dd></dl>"
    assert figure(None, "caption", "nothing to see") == '<p class="note">nothing to see</p>'


def test_every_link_leads_to_its_own_section():
    part = (Section("Same title", ("<p>text</p>",)), Section("Other", ()))
    chapters = [Chapter(name, "", "well", "good", (("what", "1", "below"),), part) for name in ("One", "Two")]
    page = render("title", "subtitle", chapters, [Section("Same title", ())])
    for name in ("0-one-same-title", "0-one-other", "1-two-same-title", "1-two-other", "end-same-title"):
        assert page.count(f'href="#{name}"') == page.count(f'id="{name}"') == 1
    assert "<span>what</span><b>1</b><span>below</span>" in page


def test_values_of_a_configuration_are_shown_short():
    values = (None, (25, 0.123456), [], "text", True, 12, 1e-3)
    assert [show(value) for value in values] == ["none", "25, 0.1235", "(empty)", "text", "True", "12", "0.001"]


def test_provenance_counts_devices_and_names_the_diff():
    record = {
        "git_commit": "abc",
        "git_diff": "one\ntwo",
        "gpus": ["H200", "L4", "H200"],
        "seed": 0,
        "machine": "Linux",
    }
    record["versions"] = {"torch": "2.13.0", "xlstm": None}
    (_, facts) = provenance({}, record).blocks
    assert "<dd>abc, with uncommitted changes (2 lines of diff in record.<wbr>json)</dd>" in facts
    assert "<dd>2 x H200, 1 x L4; Linux</dd>" in facts
    assert "<dd>torch 2.13.0</dd>" in facts
    assert "<dt>seed</dt><dd>0</dd>" in facts
    again = {"devices": ["H100", "H100"], "git_diff_sha256": "0123456789abcdef"}
    assert "stages" not in facts
    again["stages"] = [{"from": 0, "to": 3200}, {"from": 3200, "to": 4800}]
    (_, facts) = provenance({}, record | again | {"continuations": [{}, {"devices": ["L4"]}]}).blocks
    assert "<dd>1 x L4; Linux</dd>" in facts, "of the newest start"
    assert "<dt>stages</dt><dd>0 to 3,200 windows; 3,200 to 4,800 windows</dd>" in facts
    assert "with uncommitted changes (uncommitted.<wbr>diff, sha256 0123456789ab)" in facts
