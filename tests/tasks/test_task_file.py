"""Task files: the layouts of the benchmarks on synthetic rows of the same columns, and what a wrong file says."""

import io
import re

import pytest
import yaml
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_metis_home.answers.matching import answers_match
from hf_metis_home.data.images import decode_image
from hf_metis_home.tasks.questions import fingerprint, load_questions, write_questions
from hf_metis_home.tasks.task_file import SHIPPED, find_task_file, read_task_file, shipped_tasks


TEXT, NUMBER, IMAGE = Value("string"), Value("int64"), ImageFeature()


def png(shade: int) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (shade, 0, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def texts(*names: str) -> dict:
    return dict.fromkeys(names, TEXT)


# Columns and types of each benchmark, rows of them, and what must come of the rows: question, id, subject, answers that
# are right, answers that are wrong.
LAYOUTS = {
    "mathvista": (
        texts("pid", "question", "image", "unit", "answer", "question_type", "answer_type", "query")
        | {"decoded_image": IMAGE, "choices": List(TEXT), "precision": Value("float64")}
        | {"metadata": texts("category", "context", "grade", "language", "source", "split", "task")},
        [
            {"pid": "1", "question": "Angle?", "decoded_image": png(1), "choices": ["90", "145°"], "answer": "145°",
             "metadata": {"task": "geometry problem solving"}},
            {"pid": "2", "question": "Age gap?", "decoded_image": png(2), "choices": None, "answer": "1.2",
             "metadata": {"task": "math word problem"}},
        ],
        [
            ("Angle?\nA. 90\nB. 145°", "1", "geometry problem solving", ["B", "(b)", "145°"], ["A", "90"]),
            ("Age gap?", "2", "math word problem", ["1.2", "1.20"], ["1.3", "B"]),
        ],
    ),
    "mathvision": (
        texts("id", "question", "image", "answer", "solution", "subject")
        | {"options": List(TEXT), "decoded_image": IMAGE, "level": NUMBER},
        [
            {"id": "7", "question": "Which is left? <image1> Choose.", "options": ["4", "5"], "decoded_image": png(1),
             "answer": "B", "subject": "arithmetic", "level": 1},
            {"id": "8", "question": "How many?\n<image1>", "options": [], "decoded_image": png(2), "answer": "18",
             "subject": "counting", "level": 2},
        ],
        [
            ("Which is left? ⟨image⟩ Choose.\nA. 4\nB. 5", "7", "arithmetic", ["B", "5"], ["A", "4"]),
            ("How many?\n⟨image⟩", "8", "counting", ["18"], ["8"]),
        ],
    ),
    "mathverse": (
        texts("sample_index", "problem_index", "problem_version", "question", "answer", "question_type", "query_wo",
              "query_cot", "question_for_eval") | {"image": IMAGE, "metadata": texts("split", "source", "subject")},
        [
            {"sample_index": "1", "problem_version": "Text Dominant", "question": "Find x.\nChoices:\nA:3\nB:4",
             "image": png(1), "answer": "B"},
            {"sample_index": "2", "problem_version": "Vision Only", "question": "", "image": png(1), "answer": "5"},
        ],
        [
            ("Find x.\nChoices:\nA:3\nB:4", "1", "Text Dominant", ["B", "(B)"], ["A"]),
            ("", "2", "Vision Only", ["5"], ["6"]),
        ],
    ),
    "wemath": (
        texts("ID", "split", "knowledge concept", "question", "option", "answer", "key")
        | {"image_path": IMAGE, "question number": NUMBER},
        [{"ID": "1", "question": "Area?", "option": "A. 3; B. 4; C. No correct answer", "image_path": png(1),
          "answer": "A", "key": "2steps_1", "split": "testmini", "question number": 5}],
        [("Area?\nA. 3; B. 4; C. No correct answer", "0", "2steps_1", ["A", "A. 3"], ["B"])],
    ),
    "logicvista": (
        texts("id", "question", "answer", "reasoning", "skill", "broad_capability", "imagesource")
        | {"image": IMAGE},
        [
            {"id": "v1", "question": "Next? Select from A, B.", "answer": "B", "skill": "inductive", "image": png(1)},
            {"id": "v2", "question": "Which? A. a B. b C. c", "answer": "A, C", "skill": "spatial", "image": png(1)},
        ],
        [
            ("Next? Select from A, B.", "v1", "inductive", ["B"], ["A", "A or B"]),
            ("Which? A. a B. b C. c", "v2", "spatial", ["A, C", "A,C"], ["A", "C"]),
        ],
    ),
    "dynamath": (
        texts("id", "question", "image", "ground_truth", "answer_type", "subject", "knowledge_level")
        | {"decoded_image": IMAGE},
        [
            {"id": "1", "question": "Value?", "decoded_image": png(1), "ground_truth": "-2.5", "subject": "algebra"},
            {"id": "2", "question": "choice: (A) odd (B) even", "decoded_image": png(1), "ground_truth": "A",
             "subject": "analytic geometry"},
        ],
        [
            ("Value?", "1", "algebra", ["-2.5", "-5/2"], ["2.5"]),
            ("choice: (A) odd (B) even", "2", "analytic geometry", ["A", "(A) odd"], ["B"]),
        ],
    ),
    "mmbench": (
        texts("index", "question", "hint", "answer", "A", "B", "C", "D", "category", "source", "L2-category", "comment",
              "split") | {"image": IMAGE},
        [
            {"index": "241", "question": "Which?", "hint": "Look left.", "answer": "B", "A": "cat", "B": "dog",
             "C": "nan", "D": None, "category": "object_localization", "image": png(1)},
            {"index": "252", "question": "What?", "hint": "nan", "answer": "D", "A": "1", "B": "2", "C": "3", "D": "4",
             "category": "ocr", "image": png(1)},
        ],
        [
            ("Look left.\nWhich?\nA. cat\nB. dog", "241", "object_localization", ["B", "dog"], ["A", "cat", "C"]),
            ("What?\nA. 1\nB. 2\nC. 3\nD. 4", "252", "ocr", ["D", "4"], ["3"]),
        ],
    ),
    "mmmu": (
        texts("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty", "question_type",
              "subfield") | {f"image_{number}": IMAGE for number in range(1, 8)},
        [
            {"id": "validation_Art_1", "question": "<image 1> Which of", "options": "['<image 2>', 'it\\'s \"no\"']",
             "image_1": png(1), "image_2": png(2), "answer": "B", "subfield": "Drawing"},
            {"id": "validation_Math_2", "question": "Sum in <image 1>?", "options": "[]", "image_1": png(3),
             "answer": "['24/7', '3.429']", "subfield": "Sums"},
            {"id": "validation_Bio_3", "question": "Name it.", "options": "['a', 'b']", "image_1": png(4),
             "image_2": png(5), "answer": "A", "subfield": "Cells"},
        ],
        [
            ("⟨image⟩ Which of\nA. ⟨image⟩\nB. it's \"no\"", "validation_Art_1", "Drawing", ["B", 'it\'s "no"'], ["A"]),
            ("Sum in ⟨image⟩?", "validation_Math_2", "Sums", ["24/7", "3.429"], ["24", "7"]),
            ("Name it.\nA. a\nB. b", "validation_Bio_3", "Cells", ["A"], ["B"]),
        ],
    ),
    "ocrbench": (
        texts("dataset", "question", "question_type") | {"answer": List(TEXT), "image": IMAGE},
        [{"dataset": "IIIT5K", "question": "what is written in the image?", "question_type": "Regular Text Recognition",
          "answer": ["CENTRE", "the Centre"], "image": png(1)}],
        [("what is written in the image?", "0", "Regular Text Recognition", ["centre", "Centre"], ["center"])],
    ),
    "hallusionbench": (
        texts("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id", "question",
              "gt_answer_details", "gt_answer", "filename") | {"image": IMAGE},
        [
            {"category": "VD", "subcategory": "illusion", "set_id": "0", "figure_id": "1", "question_id": "2",
             "question": "Is it straight?", "gt_answer": answer, "image": png(1)}
            for answer in "10"
        ][:1] + [
            {"category": "VS", "subcategory": "map", "set_id": "0", "figure_id": "1", "question_id": "3",
             "question": "Is it north?", "gt_answer": "0", "image": png(1)}
        ],
        [
            ("Is it straight?", "VD-illusion-0-1-2", "illusion", ["yes", "Yes, it is."], ["no"]),
            ("Is it north?", "VS-map-0-1-3", "map", ["No"], ["yes"]),
        ],
    ),
    "ai2d": (
        texts("question", "answer") | {"options": List(TEXT), "image": IMAGE},
        [{"question": "What eats grass?", "options": ["owl", "rabbit", "fox", "sun"], "answer": "1", "image": png(1)}],
        [("What eats grass?\nA. owl\nB. rabbit\nC. fox\nD. sun", "0", None, ["B", "rabbit"], ["1", "A", "owl"])],
    ),
    "mmstar": (
        texts("question", "answer", "category", "l2_category")
        | {"index": NUMBER, "image": IMAGE, "meta_info": texts("source", "split", "image_path")},
        [{"index": 3, "question": "Which?\nOptions: A: cat, B: dog", "answer": "A", "category": "math",
          "image": png(1)}],
        [("Which?\nOptions: A: cat, B: dog", "3", "math", ["A"], ["B"])],
    ),
}  # fmt: skip


def local_copy(name: str, folder, rows: list[dict] | None = None, features: dict | None = None, **changes):
    """The task file that ships, on rows of its layout in a file."""
    made, layout_rows, _ = LAYOUTS[name]
    features = Features(features or made)
    rows = [{column: row.get(column) for column in features} for row in rows or layout_rows]
    Dataset.from_list(rows, features=features).to_parquet(folder / "rows.parquet")
    given = yaml.safe_load(find_task_file(name).read_text()) | {"dataset": str(folder / "rows.parquet")} | changes
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(given))
    return str(folder / f"{name}.yaml")


def shown(content) -> str:
    """A question as text, with a sign for every image that stands within."""
    return content if isinstance(content, str) else "".join(part.get("text", "⟨image⟩") for part in content)


def test_every_shipped_file_has_a_layout_here():
    assert set(shipped_tasks()) == set(LAYOUTS) and len(LAYOUTS) == 12
    for name in shipped_tasks():
        task = read_task_file(SHIPPED / f"{name}.yaml")
        assert task.name == name and task.dataset.count("/") == 1
        columns = Features(LAYOUTS[name][0])
        task.check(type("Rows", (), {"features": columns}))


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_rows_of_the_layout(name, tmp_path):
    rows, sources = load_questions([local_copy(name, tmp_path)])
    assert sources == {}  # no dataset of the Hub
    assert len(rows) == len(LAYOUTS[name][2])
    for row, (question, identity, subject, right, wrong) in zip(rows, LAYOUTS[name][2], strict=True):
        assert row["task"] == name and row["id"] == identity and row["subject"] == subject
        assert shown(row["prompt"][0]["content"]) == question and "error" not in row
        judge = lambda answer, row=row: any(answers_match(answer, gold) for gold in row["solutions"])  # noqa: E731
        assert [answer for answer in right if not judge(answer)] == []
        assert [answer for answer in wrong if judge(answer)] == []
        content = row["prompt"][0]["content"]
        places = 0 if isinstance(content, str) else sum(part["type"] == "image" for part in content)
        assert places in (0, len(row["images"])) and row["images"]
    assert all(isinstance(decode_image(image), Image.Image) for row in rows for image in row["images"])


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_column_that_is_not_there(name, tmp_path):
    features, rows, _ = LAYOUTS[name]
    for what, columns in read_task_file(SHIPPED / f"{name}.yaml").columns.items():
        lost = columns[-1].split(".")[0]
        less = {column: kind for column, kind in features.items() if column != lost}
        path = local_copy(name, tmp_path, features=less)
        message = rf"{name}.yaml: `columns.{what}` is '{columns[-1]}', which .*rows.parquet \(split .*\) does not have"
        if [key for key, used in read_task_file(SHIPPED / f"{name}.yaml").columns.items() if lost in used] == [what]:
            with pytest.raises(ValueError, match=message) as error:
                load_questions([path])
            assert "Write your own task file" in str(error.value)


def test_a_struct_without_the_field(tmp_path):
    features = LAYOUTS["mathvista"][0] | {"metadata": texts("category")}
    rows = [{**row, "metadata": {"category": "x"}} for row in LAYOUTS["mathvista"][1]]
    with pytest.raises(ValueError, match="`columns.subject` is 'metadata.task', which"):
        load_questions([local_copy("mathvista", tmp_path, rows=rows, features=features)])


def test_gold_answers_that_cannot_be_told(tmp_path):
    good = LAYOUTS["mmbench"][1][0]
    rows = [good, {**good, "answer": None}, {**good, "answer": "D"}]
    found, _ = load_questions([local_copy("mmbench", tmp_path, rows=rows)])
    assert "error" not in found[0]
    assert found[1]["error"].startswith("mmbench.yaml: column 'answer' is empty") and found[1]["solution"] == ""
    assert found[2]["error"] == "mmbench.yaml: column 'answer' is 'D', which is none of ['A', 'B']"
    for name, answer, message in (
        ("mmbench", None, "Is this a split without gold answers"),
        ("ai2d", "9", r"is '9', which is none of \['0', '1', '2', '3'\]"),
        ("mathvista", "1000", r"is '1000', which is none of \['90', '145°'\]"),
        ("hallusionbench", "perhaps", "is 'perhaps', which is neither yes nor no"),
        ("ocrbench", [], r"is \[\], which contains no answer"),
    ):
        rows = [{**LAYOUTS[name][1][0], "answer": answer, "gt_answer": answer}]
        with pytest.raises(ValueError, match=rf"none of the 1 rows of .* has a gold answer .*{message}"):
            load_questions([local_copy(name, tmp_path, rows=rows)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colums": {}}, "there is no key `colums`"),
        ({"dataset": None}, "`dataset` is missing"),
        ({"columns": {"question": "question", "answer": "answer", "picture": "image"}}, "`columns` has no `picture`"),
        ({"columns": {"question": "question"}}, "`columns.answer` is missing"),
        ({"answer": "number"}, "`answer` is 'number', but must be one of text, letter"),
    ],
)
def test_wrong_files(tmp_path, changes, message):
    path = local_copy("mmstar", tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        load_questions([path])


def test_a_file_that_is_no_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="a.yaml is not YAML"):
        load_questions([str(tmp_path / "a.yaml")])
    (tmp_path / "a.yaml").write_text("word")
    with pytest.raises(ValueError, match="has no `key: value` lines"):
        load_questions([str(tmp_path / "a.yaml")])


def test_several_tasks_at_once(tmp_path):
    path = local_copy("mmmu", tmp_path)
    rows, _ = load_questions([path, "corner", "chain"], limit=2)
    assert [row["task"] for row in rows] == ["mmmu"] * 2 + ["corner"] * 2 + ["chain"] * 2
    assert [row["id"] for row in rows][2:] == ["0", "1", "0", "1"]
    alone, _ = load_questions(["chain"], limit=2)
    assert alone[0]["prompt"] == rows[4]["prompt"] and alone[1]["solution"] == rows[5]["solution"]
    other, _ = load_questions(["chain"], limit=2, seed=1)
    assert [row["prompt"] for row in other] != [row["prompt"] for row in alone]
    assert fingerprint(alone) == fingerprint(load_questions(["chain"], limit=2)[0]) != fingerprint(other)


def test_the_fingerprint_sees_texts_answers_and_images(tmp_path):
    rows = LAYOUTS["mmstar"][1]
    prints = {fingerprint(load_questions([local_copy("mmstar", tmp_path, rows=rows)])[0])}
    for changes in ({"question": "What?"}, {"answer": "B"}, {"image": png(9)}, {"category": "x"}, {"index": 4}):
        prints.add(fingerprint(load_questions([local_copy("mmstar", tmp_path, rows=[{**rows[0], **changes}])])[0]))
    assert len(prints) == 6


def test_questions_are_kept_with_small_images(tmp_path):
    from pyarrow import parquet

    file = io.BytesIO()
    Image.new("L", (1000, 500)).save(file, "PNG")
    rows = [{**LAYOUTS["ocrbench"][1][0], "image": {"bytes": file.getvalue(), "path": None}}]
    questions, _ = load_questions([local_copy("ocrbench", tmp_path, rows=rows)])
    [kept] = parquet.read_table(write_questions(questions, tmp_path / "questions.parquet")).to_pylist()
    assert Image.open(io.BytesIO(kept.pop("image"))).size == (256, 128)
    assert kept == {
        "task": "ocrbench", "id": "0", "subject": "Regular Text Recognition",
        "question": "what is written in the image?", "solution": "CENTRE or the Centre",
    }  # fmt: skip


def test_a_reasoning_gym_family_is_judged_by_its_own_verifier():
    pytest.importorskip("reasoning_gym")
    word = "reasoning_gym:countdown"
    rows, sources = load_questions([word], limit=3, seed=4)
    assert sources == {} and [row["task"] for row in rows] == [word] * 3 and [row["id"] for row in rows] == list("012")
    row = rows[0]
    judge, solution = row["verifier"], row["solution"]
    assert judge(solution) and not judge("1") and not judge("no expression (")
    # Another way to the target number, which no comparison with the gold answer would know.
    assert judge(f"({solution}) * 1") is not None and judge(f"({solution})")
    assert rows[0]["prompt"] == load_questions([word], limit=5, seed=4)[0][0]["prompt"]
    with pytest.raises(ValueError, match="`tasks` has 'reasoning_gym:countup', but the families of reasoning-gym are"):
        load_questions(["reasoning_gym:countup"])
