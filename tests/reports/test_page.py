"""What the reports share: pages, plots, numbers."""

from hf_metis_home.reports.page import LINE_HEIGHT, Frame, frame_to, percent, place_labels


def test_names_of_marks_do_not_overlap():
    frame = frame_to(20.0)
    for heights in ([20.0] * 6, [270.0] * 6, [20.0, 21.0, 100.0, 105.0, 276.0, 276.0]):
        marks = [{"x": 10.0, "y": y} for y in heights]
        place_labels(marks, frame)
        places = sorted(mark["label_y"] for mark in marks)
        assert all(below - above >= LINE_HEIGHT for above, below in zip(places, places[1:], strict=False))
        assert places[0] >= 0 and places[-1] <= frame.height


def test_frame_puts_values_where_the_ticks_say():
    frame = Frame(10.0, [(0.0, "0"), (10.0, "10")], y_start=0.6, y_end=0.9)
    assert frame.x_ticks == [(frame.left, "0"), (frame.width - frame.right, "10")]
    assert [label for _, label in frame.y_ticks] == ["60", "70", "80", "90"]
    assert frame.y(0.9) == frame.top == frame.y(1.5) and frame.y(0.6) == frame.height - frame.bottom == frame.y(0.0)
    assert [frame.y(share / 100) for share in (60, 70, 80, 90)] == [place for place, _ in frame.y_ticks]


def test_percent():
    assert [percent(value) for value in (0.93764, -0.0001, -0.013, None, float("nan"))] == [
        "93.8", "0.0", "-1.3", "–", "–",
    ]  # fmt: skip
    assert percent(0.5, 0, " %") == "50 %"
