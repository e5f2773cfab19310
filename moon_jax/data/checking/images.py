"""Whether bytes are a usable image: bounded by the header before anything is decoded."""

import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

MAX_PIXELS = 1 << 24  # a 4096 x 4096 image; read from the header, so that a decompression bomb is never decoded
FORMATS = ("JPEG", "PNG", "WEBP")


def image_faults(encoded: Sequence[bytes | None]) -> list[str | None]:
    """`image_fault` of each, on all cores: decoders release the interpreter's lock."""
    from PIL import Image

    def judge(start: int) -> list[str | None]:
        return [image_fault(image) for image in encoded[start : start + 128]]

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return [reason for part in pool.map(judge, range(0, len(encoded), 128)) for reason in part]


def image_fault(encoded: bytes | None) -> str | None:
    """Why these bytes are no usable image, or None: too many pixels by its header, or it does not decode."""
    from PIL import Image

    if encoded is None:
        return None
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"image is oversized: {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read"
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"image is oversized: at most {MAX_PIXELS} pixels are read"
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        return f"image does not decode ({type(error).__name__}: {str(error)[:80] or 'no reason given'})"
    return None
