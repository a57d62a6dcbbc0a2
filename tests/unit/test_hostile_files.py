"""Files that are damaged or made to do harm: each ends as one printable sentence, quickly."""

import io
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)
from test_images import SHARED, jpeg_dicom, make_dataset, save

import edge_predict
from cxr.images import gdcm_process
from cxr.images.codestream import Codestream, find_jpeg_end, read_codestream
from cxr.images.dicom import open_dicom
from cxr.images.gdcm_process import decode_with_gdcm
from cxr.images.header import Header, why_not_frontal_chest
from cxr.images.isolated import Reader, read_all
from cxr.images.printable import UnreadableImage, describe_error, printable
from cxr.images.read import read_image

HOSTILE = SHARED / "hostile"
BYTE = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48).astype(np.uint8)
needs_hostile = pytest.mark.skipif(
    not HOSTILE.is_dir(), reason=f"no hostile files at {HOSTILE} (CXR_SHARED_DATA)"
)


def hostile_files():
    return sorted(HOSTILE.glob("*.dcm")) if HOSTILE.is_dir() else []


def sentence_of(read, path):
    with pytest.raises((UnreadableImage, edge_predict.Refused)) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert " object at 0x" not in sentence
    return sentence


@pytest.fixture(params=[read_image, edge_predict.read_xray], ids=["cxr", "edge"])
def read(request):
    return request.param


@pytest.fixture(scope="module")
def reader():
    reader = Reader(seconds=60)
    yield reader
    reader.close()


# ------------------------------------------------------------------------- files on disk


@needs_hostile
@pytest.mark.parametrize("path", hostile_files(), ids=lambda path: path.stem)
def test_hostile_files_end_in_a_sentence(read, reader, path):
    if path.stem == "element_length_of_4_GB":  # one that can be read
        np.testing.assert_array_equal(edge_predict.read_xray(path).picture, read_image(path)[0])
        return
    sentence = sentence_of(read, path)
    assert sentence.startswith(f"{path}: ")
    with pytest.raises(UnreadableImage) as caught:
        reader.read(path, [16])
    assert str(caught.value).isprintable()


@needs_hostile
def test_hostile_files_do_not_end_the_process(reader):
    """It is the same process before and after."""
    process = reader.start()
    for result in [*read_all(hostile_files(), [16], workers=1), None]:
        assert result is None or "crashes" not in str(result)
    for path in hostile_files():
        try:
            reader.read(path, [16])
        except UnreadableImage:
            assert reader.start() is process


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_mutated_files():
    """More of them by `python tests/fuzz_readers.py`."""
    script = Path(__file__).parents[1] / "fuzz_readers.py"
    command = [sys.executable, str(script), "--count", "200", "--seed", "9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "different pictures: 0" in done.stdout


# ------------------------------------------------------- compressed pictures and their header


def lying_jpeg(width, height, components=1):
    """A JPEG of 48 x 40 whose header says another size."""
    buffer = io.BytesIO()
    Image.fromarray(BYTE).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 5] = (
        height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([components])
    )
    return bytes(content)


def encapsulated(path, frame, syntax, **tags):
    dataset = make_dataset(BYTE, **tags)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return save(path, dataset)


@pytest.mark.parametrize("size", [(32767, 32767, 1), (65500, 65500, 3), (40, 48, 1), (48, 40, 3)])
def test_a_jpeg_of_another_size_is_not_decoded(read, tmp_path, size):
    path = encapsulated(tmp_path / "x.dcm", lying_jpeg(*size), JPEGBaseline8Bit)
    assert "and its header says" in sentence_of(read_image, path)
    assert "another kind or size than it states" in sentence_of(edge_predict.read_xray, path)
    sentence_of(read, path)


def jpeg2000(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()


def test_a_jpeg_2000_of_another_kind_is_not_decoded(tmp_path):
    colour = jpeg2000(np.dstack([BYTE] * 3))
    path = encapsulated(tmp_path / "colour.dcm", colour, JPEG2000Lossless)
    assert "of shape (40, 48, 3), and its header says (40, 48)" in sentence_of(read_image, path)
    smaller = jpeg2000(BYTE[:20])
    path = encapsulated(tmp_path / "smaller.dcm", smaller, JPEG2000Lossless)
    assert "of shape (20, 48), and its header says (40, 48)" in sentence_of(read_image, path)
    deep = jpeg2000(BYTE.astype(np.uint16) * 200)
    path = encapsulated(tmp_path / "deep.dcm", deep, JPEG2000Lossless)
    assert "16 bits a pixel, and its header says 8" in sentence_of(read_image, path)
    path = encapsulated(tmp_path / "words.dcm", b"these are words", JPEG2000Lossless)
    assert "no JPEG or JPEG 2000" in sentence_of(read_image, path)


def test_what_compressed_pictures_say_of_themselves():
    assert read_codestream(lying_jpeg(300, 200, 3)) == Codestream(300, 200, 3, 8, 0xC0)
    assert read_codestream(jpeg2000(BYTE)) == Codestream(48, 40, 1, 8, 0)
    assert read_codestream(jpeg2000(np.dstack([BYTE] * 3))).shape == (40, 48, 3)
    boxed = io.BytesIO()
    Image.fromarray(BYTE).save(boxed, "JPEG2000", no_jp2=False)
    assert read_codestream(boxed.getvalue()).shape == (40, 48)
    for content in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\x4f\xff\x51", bytes(99)):
        assert read_codestream(content) is None


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_the_end_of_a_jpeg(options):
    """A thumbnail inside has an end of its own."""
    small = io.BytesIO()
    Image.fromarray(BYTE[:8, :8]).save(small, "JPEG")
    buffer = io.BytesIO()
    exif = b"Exif\0\0" + small.getvalue()
    Image.fromarray(BYTE).save(buffer, "JPEG", exif=exif, **options)
    content = buffer.getvalue()
    assert find_jpeg_end(content + b"tail\xff\xd9") == len(content)
    for length in (0, 2, 40, len(content) // 2, len(content) - 1):
        assert find_jpeg_end(content[:length]) is None


# --------------------------------------------------------------------------------- decoders


@needs_hostile
def test_gdcm_dies_alone():
    """What ends its process, given to it on purpose, is a sentence for this one."""
    dicom = open_dicom((HOSTILE / "j2k_components_against_samples.dcm").read_bytes())
    frame = pydicom.encaps.get_frame(dicom.dataset.PixelData, 0, number_of_frames=1)
    with pytest.raises(Exception, match="crashes the decoder"):
        decode_with_gdcm(frame, dicom.syntax, dicom.pixels)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process of this one")
def test_gdcm_is_called_here_only_where_that_was_said(monkeypatch, tmp_path):
    path, _ = jpeg_dicom(tmp_path / "x.dcm", BYTE)
    pixels = open_dicom(path.read_bytes()).pixels
    calls = []
    monkeypatch.setattr(gdcm_process, "decode_here", lambda *_: calls.append("here"))
    monkeypatch.setattr(gdcm_process, "decode_apart", lambda *_: calls.append("apart"))
    decode_with_gdcm(b"", JPEGExtended12Bit, pixels)
    monkeypatch.setattr(gdcm_process, "_this_process_may_die", True)
    decode_with_gdcm(b"", JPEGExtended12Bit, pixels)
    assert calls == ["apart", "here"]


def test_an_unknown_compression_is_named(read, tmp_path):
    mpeg = "1.2.840.10008.1.2.4.100"
    path = encapsulated(tmp_path / "x.dcm", b"frames", mpeg)
    sentence = sentence_of(read, path)
    assert "MPEG2" in sentence
    assert "gdcmconv --raw" in sentence
    unknown = "1.2.840.10008.1.2.4.999"
    path.write_bytes(path.read_bytes().replace(mpeg.encode(), unknown.encode()))
    assert unknown in sentence_of(read, path)


def test_a_deflated_file_that_would_fill_the_memory(read, tmp_path):
    """A few bytes that unpack to gigabytes of zeros."""
    dataset = make_dataset(BYTE)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    meta_end = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(wbits=-15)
    zeros = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)  # may be repeated
    (tmp_path / "bomb.dcm").write_bytes(content[:meta_end] + 300 * zeros + packer.flush())
    assert "unpacks to more than" in sentence_of(read, tmp_path / "bomb.dcm")
    (tmp_path / "whole.dcm").write_bytes(content)
    read(tmp_path / "whole.dcm")


def test_a_process_that_is_killed_is_no_fault_of_the_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    reader = Reader(seconds=60)
    try:
        process = reader.start()
        killer = threading.Timer(0.5, process.kill)  # while it waits for what the pipe says
        killer.start()
        with pytest.raises(UnreadableImage, match="perhaps for lack of memory"):
            reader.read(tmp_path / "pipe.dcm", [16])
    finally:
        reader.close()


# --------------------------------------------------------------------------- printable words


def test_printable():
    assert printable("ünï ☃ 100%") == "ünï ☃ 100%"
    assert printable("\x1b[2Jx\ny\x07") == "?[2Jx?y?"
    assert printable(os.fsdecode(b"bytes\xff.png")) == "bytes?.png"
    assert printable("gnp.\u202eexe") == "gnp.?exe"
    assert printable("1.2.\xad840") == "1.2.?840"
    assert printable("胸\u3000部.png") == "胸\u3000部.png"
    assert printable("می\u200cخواهم") == "می\u200cخواهم"
    words = describe_error(ValueError("cannot identify\n  <_io.BytesIO object at 0x7f12ab>"))
    assert words == "ValueError: cannot identify"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + bytes(60)])
def test_addresses_of_objects_are_left_out(read, tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    sentence_of(read, tmp_path / "x.png")


def test_escape_sequences_in_names_of_files(read, tmp_path):
    path = tmp_path / "a\x1b[2Jb.png"
    path.write_bytes(b"words")
    assert "a?[2Jb.png: " in sentence_of(read, path)


# ---------------------------------------------------------------------- no frontal chest X-ray


def dataset_of(facts):
    """The header that says this of an image."""
    keywords = {"modality": "Modality", "body_part": "BodyPartExamined", "view": "ViewPosition"}
    dataset = Dataset()
    for name, value in facts.items():
        setattr(dataset, keywords[name], value)
    return dataset


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"modality": "CR", "body_part": "CHEST", "view": "PA"},
        {"modality": "DX", "body_part": "THORAX", "view": "AP"},
        {"modality": "DR", "body_part": "CHEST PA", "view": ""},
        {"modality": "RG", "body_part": "PORT CHEST", "view": "LLD"},
    ],
)
def test_frontal_chest_x_rays(facts):
    assert why_not_frontal_chest(Header(10, 10, **facts)) == ""
    assert edge_predict.why_not_frontal_chest(dataset_of(facts)) == ""


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"modality": "CT", "body_part": "CHEST"}, "modality is CT"),
        ({"modality": "MG"}, "modality is MG"),
        ({"modality": "DX", "body_part": "HIP"}, "body part is HIP"),
        ({"modality": "DX", "body_part": "CHEST", "view": "LL"}, "view is LL"),
        ({"modality": "CR", "view": "LATERAL"}, "view is LATERAL"),
        ({"view": "RLO"}, "view is RLO"),
    ],
)
def test_what_is_no_frontal_chest_x_ray(facts, words):
    sentence = why_not_frontal_chest(Header(10, 10, **facts))
    assert words in sentence
    assert edge_predict.why_not_frontal_chest(dataset_of(facts)) == sentence


def test_the_reader_hands_on_what_the_header_says(reader, tmp_path):
    tags = {"Modality": "DX", "BodyPartExamined": "HIP", "ViewPosition": "AP"}
    picture = reader.read(save(tmp_path / "x.dcm", make_dataset(BYTE, **tags)), [16])
    assert picture.header == Header(48, 40, view="AP", modality="DX", body_part="HIP")
    assert (picture.width, picture.height) == (48, 40)
