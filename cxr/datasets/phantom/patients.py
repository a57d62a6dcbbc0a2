"""Patients as the NIH set has them, of whose X-rays several data sets are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NIH_PATIENTS = 30805


@dataclass(frozen=True)
class PatientImage:
    """One image of a patient: the patient's number, the image's number among theirs, sex, age."""

    patient: int
    number: int
    sex: str
    age: int

    @property
    def nih_patient(self) -> str:
        return f"{self.patient:08d}"

    @property
    def nih_file(self) -> str:
        """Name of the image in the NIH set, which begins with the patient."""
        return f"{self.nih_patient}_{self.number:03d}.png"


def draw_patients(rng: np.random.Generator, count: int) -> list[PatientImage]:
    """`count` images; every third patient or so has several."""
    images: list[PatientImage] = []
    for patient in rng.choice(NIH_PATIENTS, count, replace=False) + 1:
        first = int(rng.integers(0, 20))
        sex = str(rng.choice(["M", "F"], p=[0.57, 0.43]))
        age = int(np.clip(rng.normal(47, 17), 5, 90))
        for number in range(first, first + rng.choice([1, 1, 1, 1, 2, 4])):
            images.append(PatientImage(int(patient), number, sex, age))
    return images[:count]
