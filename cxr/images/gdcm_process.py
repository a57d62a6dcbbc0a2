"""GDCM, which decodes lossless JPEG and JPEG of 12 bits, where it can do no harm.

On damaged data it throws C++ exceptions that nothing catches, and the process ends. So it is only
called in processes that may die: those of isolated.py, or one that is started for a single picture
(`python -m cxr.images.gdcm_process`).
"""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

from cxr.images.limits import limit_memory, take_stdout
from cxr.images.messages import receive, send
from cxr.images.pixel_format import PixelFormat
from cxr.images.printable import describe_error
from cxr.system.errors import InputError

DECODE_SECONDS = 60
CRASHED = "crashes the decoder, so it is damaged or made to do harm"

_this_process_may_die = False


def allow_to_die() -> None:
    """Say that this process does nothing else than decoding, and is started again if it ends."""
    global _this_process_may_die
    _this_process_may_die = True


def decode_with_gdcm(frame: bytes, syntax: UID, pixels: PixelFormat) -> np.ndarray:
    """Cells (height, width) or (height, width, samples) of a compressed frame."""
    if "gdcm" not in get_decoder(syntax).available_plugins:
        raise InputError(
            f"is compressed as {syntax.name}, which needs GDCM: pip install python-gdcm, or "
            "decompress it first, such as with gdcmconv --raw"
        )
    if _this_process_may_die:
        return decode_here(frame, syntax, pixels)
    return decode_apart(frame, syntax, pixels)


def decode_apart(frame: bytes, syntax: UID, pixels: PixelFormat) -> np.ndarray:
    request = io.BytesIO()
    facts = {"syntax": str(syntax), "pixels": asdict(pixels)}
    send(request, facts, {"frame": np.frombuffer(frame, np.uint8)})
    try:
        process = subprocess.run(
            [sys.executable, "-m", "cxr.images.gdcm_process"],
            cwd=Path(__file__).parents[2],
            input=request.getvalue(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=DECODE_SECONDS,
            check=False,
        )
        facts, arrays = receive(io.BytesIO(process.stdout))
    except subprocess.TimeoutExpired:
        raise InputError(f"took more than {DECODE_SECONDS} seconds to decode") from None
    except EOFError:
        raise InputError(CRASHED) from None
    if "error" in facts:
        raise InputError(facts["error"])
    return arrays["cells"]


def decode_here(frame: bytes, syntax: UID, pixels: PixelFormat) -> np.ndarray:
    if syntax == JPEGExtended12Bit:
        return decode_twelve_bits(frame, syntax, pixels)
    # All bits of the cells, used or not: GDCM would cut off those above Bits Stored.
    options = pixels.as_options() | {"bits_stored": pixels.bits_allocated}
    cells, _ = get_decoder(syntax).as_array(
        encapsulate([frame]), index=0, decoding_plugin="gdcm", **options
    )
    return cells


def decode_twelve_bits(frame: bytes, syntax: UID, pixels: PixelFormat) -> np.ndarray:
    """pydicom's plug-in refuses this syntax, which GDCM decodes as dcmtk and libjpeg-turbo do."""
    import gdcm  # optional

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())

    photometric = gdcm.PhotometricInterpretation.GetPIType(pixels.photometric)
    transfer_syntax = gdcm.TransferSyntax.GetTSType(str(syntax))
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((pixels.columns, pixels.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    image.SetTransferSyntax(gdcm.TransferSyntax(transfer_syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM gives bytes as text.
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(content, np.uint16).reshape(pixels.rows, pixels.columns)


def decode_from_stdin() -> None:
    """Decode the frame that comes in."""
    limit_memory()
    facts, arrays = receive(sys.stdin.buffer)
    pixels = PixelFormat(**facts["pixels"])
    answers = take_stdout()
    try:
        cells = decode_here(arrays["frame"].tobytes(), UID(facts["syntax"]), pixels)
    except Exception as error:  # a decoder raises anything at all on damaged bytes
        send(answers, {"error": f"cannot be decoded ({describe_error(error)})"})
        return
    send(answers, {}, {"cells": cells})


if __name__ == "__main__":
    decode_from_stdin()
