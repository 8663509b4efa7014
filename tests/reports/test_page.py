"""What the reports share: how numbers are written."""

from hf_metis_home.reports.page import percent


def test_percent():
    assert [percent(value) for value in (0.93764, -0.0001, -0.013, None, float("nan"))] == [
        "93.8", "0.0", "-1.3", "–", "–",
    ]  # fmt: skip
    assert percent(0.5, 0, " %") == "50 %"
