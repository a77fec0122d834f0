"""DICOM objects made of generated pictures: for tests, examples and trying things out.

Every name, UID and date in them is invented.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_dicom"]

_ROOT = "1.2.826.0.1.3680043.8.498.1"
_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def as_dicom(
    pixels: NDArray[Any],
    *,
    study: int = 1,
    series: int = 1,
    number: int = 1,
    modality: str = "CT",
    position: float | None = None,
    patient: str = "PHANTOM-1",
    frames: int = 1,
    **attributes: Any,
) -> bytes:
    """The bytes of a DICOM object (explicit VR little endian) that holds these pixels.

    Args:
        pixels: uint8, uint16 or int16, ([frames,] height, width) or (height, width, 3).
        study, series, number: stand for UIDs and numbers; equal ones belong together.
        position: in mm along the patient's axis; None writes no position.
        attributes: further ones by keyword, instead of what would stand there; None leaves
            one out.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    colour = pixels.ndim == 3 and frames == 1
    rows, columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    uid = f"{_ROOT}.{study}.{series}.{number}"
    values: dict[str, Any] = {
        "SOPClassUID": _CLASSES.get(modality, _SECONDARY_CAPTURE),
        "SOPInstanceUID": uid,
        "StudyInstanceUID": f"{_ROOT}.{study}",
        "SeriesInstanceUID": f"{_ROOT}.{study}.{series}",
        "PatientName": "Phantom^Anonymous",
        "PatientID": patient,
        "Modality": modality,
        "SeriesNumber": series,
        "InstanceNumber": number,
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    if colour:
        values["PlanarConfiguration"] = 0
    if frames > 1:
        values["NumberOfFrames"] = frames
    if position is not None:
        values["ImageOrientationPatient"] = [1, 0, 0, 0, 1, 0]
        values["ImagePositionPatient"] = [0, 0, position]
    values["PixelData"] = np.ascontiguousarray(pixels).tobytes()
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    with warnings.catch_warnings():
        # some phantoms are wrong on purpose
        warnings.simplefilter("ignore")
        for name, value in (values | attributes).items():
            if value is not None:
                setattr(ds, name, value)
        if "PixelData" in ds:
            ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
        out = BytesIO()
        ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
