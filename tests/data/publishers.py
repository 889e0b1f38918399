"""Small FAKE copies of data sets in their publishers' layouts: noise for faces, invented labels.

Each function fills a folder and returns it. Nothing here comes from the data sets but the names of files and the form
of the lists. Tests reach this module through the fixture ``publishers``.
"""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

RAFDB = {"train_00001": 5, "train_00002": 1, "train_00003": 4, "test_0001": 7, "test_0002": 2}
"""Fake RAF-DB: each image's number."""
FER_ROWS = [(0, "Training"), (3, "Training"), (6, "PublicTest"), (1, "PrivateTest")]
"""Fake FER2013: each row's number and usage."""
PLUS_VOTES = [
    [1, 7, 0, 0, 0, 0, 0, 0, 2, 0],  # happiness
    [4, 0, 0, 4, 0, 0, 0, 0, 2, 0],  # a tie
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 10],  # no face
    [0, 0, 0, 0, 0, 1, 0, 5, 4, 0],  # contempt
]
"""Fake FER+: votes for neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF."""


def image(path, size=(20, 16)):
    """Write noise; the size is width and height."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def rafdb(root):
    text(root / "EmoLabel" / "list_patition_label.txt", *(f"{name}.jpg {label}" for name, label in RAFDB.items()))
    for name in RAFDB:
        image(root / "Image" / "aligned" / f"{name}_aligned.jpg")
        image(root / "Image" / "original" / f"{name}.jpg", (60, 40))
        text(root / "Annotation" / "boundingbox" / f"{name}_boundingbox.txt", "10.5 5 40.5 35")
    return root


def affectnet_arrays(root):
    """Labels as strings in one set, as numbers in the other; the fourth is no expression, the last Contempt."""
    for name, labels in {"train_set": ["0", "1", "6", "9", "7"], "val_set": [2, 7]}.items():
        for number, label in enumerate(labels, 8):
            image(root / name / "images" / f"{number}.jpg")
            (root / name / "annotations").mkdir(exist_ok=True)
            np.save(root / name / "annotations" / f"{number}_exp.npy", np.array(label))
    return root


def affectnet_lists(root):
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    rows = {
        "training": [["1/a.jpg", 2, 3, 10, 9, "1;2", 1, 0.1, 0.2], ["1/b.jpg", "NULL", "NULL", 0, 0, "", 10, -2, -2]],
        "validation": [["2/c.jpg", 0, 0, 20, 16, "1;2", 7, 0.1, 0.2], ["2/d.jpg", 1, 1, 5, 5, "1;2", 6, 0.1, 0.2]],
    }
    for name, found in rows.items():
        table(root / f"{name}.csv", header.split(","), found)
        for row in found:
            image(root / "Manually_Annotated_Images" / row[0])
    return root


def affectnet_kaggle(root):
    """The subset that ExpLLM used: numbered from 1, with a path of its maker's before the folders."""
    for name, folder, labels in (("train", "train_class", [1, 8, 3]), ("valid", "val_class", [7])):
        images = [f"{folder}/class{label:03d}/image{number:07d}.jpg" for number, label in enumerate(labels)]
        table(root / f"{name}-sample-affectnet.csv", ["image", "emotion"], zip(images, labels, strict=True))
        for path in images:
            image(root / path)
    return root


def affectnet_words(root):
    """The subset whose list has words; one image lies in another class's folder."""
    rows = [("anger/image1.jpg", "anger"), ("anger/image2.jpg", "surprise"), ("happy/image3.jpg", "happy")]
    table(root / "labels.csv", ["", "pth", "label", "relFCs"], [[i, *row, 0.8] for i, row in enumerate(rows)])
    for path, _ in rows:
        image(root / path)
    return root


def expw(root):
    lines = [
        "a.jpg 0 3 2 12 14 80.5 3",  # top 3, left 2, right 12, bottom 14
        "a.jpg 1 1 13 19 9 61.0 6",
        "b.jpg 0 0 0 10 10 60.0 0",  # a confidence of 60 is not above 60
        "b.jpg 1 0 0 12 12 99.9 5",
        "b.jpg 1 0 0 12 12 99.9 5",  # the same face twice
    ]
    text(root / "label" / "label.lst", *lines)
    for name in ("a.jpg", "b.jpg"):
        image(root / "image" / "origin" / name)
    return root


def _pixels(shade):
    return " ".join([str(shade)] * 48 * 48)


def fer2013_csv(root):
    rows = [[label, _pixels(50 * i), usage] for i, (label, usage) in enumerate(FER_ROWS)]
    table(root / "fer2013.csv", ["emotion", "pixels", "Usage"], rows)
    return root


def fer2013_folders(root):
    for split, classes in {"train": ["angry", "happy"], "test": ["neutral"]}.items():
        for name in classes:
            image(root / split / name / "1.png")
    return root


def ferplus(root):
    """Only the list; its images are in the CSV file of pixels or in folders."""
    emotions = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
    header = ["Usage", "Image name", *emotions, "unknown", "NF"]
    rows = [
        [usage, "" if votes[-1] == 10 else f"fer{i:07d}.png", *votes]
        for i, ((_, usage), votes) in enumerate(zip(FER_ROWS, PLUS_VOTES, strict=True))
    ]
    table(root / "fer2013new.csv", header, rows)
    return root


def ferplus_folders(root):
    ferplus(root)
    folders = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
    for i, (_, usage) in enumerate(FER_ROWS):
        image(root / folders[usage] / f"fer{i:07d}.png", (48, 48))
    return root


def cc3m_llava(root):
    entries = []
    for number in range(3):
        image(root / "images" / f"GCC_{number}.jpg")
        told = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": f"caption {number}"}]
        entries.append({"id": number, "image": f"GCC_{number}.jpg", "conversations": told})
    (root / "chat.json").write_text(json.dumps(entries), encoding="utf-8")
    return root


def picture():
    """A JPEG file's bytes."""
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def shard(path, members):
    """A tar file of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def cc3m_shards(root):
    shard(
        root / "00000.tar",
        [
            ("000000000.jpg", picture()),
            ("000000000.txt", b"a red bus \n"),
            ("000000000.json", b'{"caption": "not this one"}'),
            ("000000001.json", b'{"caption": "two dogs", "status": "success"}'),
            ("000000001.jpg", picture()),
        ],
    )
    shard(root / "00001.tar", [("000010000.jpg", picture()), ("000010000.txt", "ein Stra\u00dfencaf\u00e9".encode())])
    return root


def feafa(root, people=5, frames=2):
    """Each person's intensities are a tenth of their number."""
    for person in range(1, people + 1):
        for frame in range(frames):
            path = root / f"P{person}" / "seq1" / f"{frame:04d}.jpg"
            image(path)
            text(path.with_suffix(".auw"), " ".join([f"{person / 10}"] * 24))
    return root


def disfa(root):
    """Two people of different parts, 3 frames; the unit's intensity is the frame's number in units 4 and 12."""
    for person in ("SN001", "SN003"):
        for unit in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26):
            lines = [f"{frame},{frame if unit in (4, 12) else 0}" for frame in (1, 2, 3)]
            text(root / "ActionUnit_Labels" / person / f"{person}_au{unit}.txt", *lines)
        for frame in (1, 2, 3):
            image(root / f"RightVideo{person}" / f"frame_{frame}.jpg")
    return root


def bp4d(root, people=("F001", "F003")):
    """Two people of different parts; the third frame has a unit that could not be coded."""
    header = ["0", *map(str, range(1, 28))]
    for person in people:
        rows = [[frame, *(1 if unit in (1, 12) else 0 for unit in range(1, 28))] for frame in (2440, 2441)]
        rows.append([2442, *([9] * 27)])
        table(root / "AUCoding" / "AU_OCC" / f"{person}_T1.csv", header, rows)
        for row in rows:
            image(root / person / "T1" / f"{row[0]}.jpg")
    return root


def released(root):
    """Lists as ExpLLM's authors released them, for images of RAF-DB."""
    long = {"file_name": "test_0001_aligned.jpg", "emo": "Sadness", "au": [0.0] * 23 + [0.25], "description": "Text. "}
    lists = {
        "rafdb_train.json": [{"file_name": "train_00001_aligned.jpg", "emo": "Happiness"}],
        "rafdb_valid.json": [long, {"file_name": "test_0002_aligned.jpg", "emo": "Fear"}],
    }
    root.mkdir(parents=True, exist_ok=True)
    for name, records in lists.items():
        (root / name).write_text(json.dumps(records), encoding="utf-8")
        for record in records:
            image(root / "aligned" / record["file_name"])
    return root
