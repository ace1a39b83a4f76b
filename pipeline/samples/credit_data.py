"""The demo's data: 4,454 real loan applications and their outcomes, in three fixed parts.

From the R package modeldata (MIT). ``Age`` and ``Marital`` are never read: protected attributes.
"""

import csv
import gzip
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CREDIT_DATA = Path(__file__).parent / "credit_data.csv.gz"
NUMBERS = ("Seniority", "Time", "Expenses", "Income", "Assets", "Debt", "Amount", "Price")
CATEGORIES = ("Home", "Records", "Job")
FEATURES = (*NUMBERS, *CATEGORIES)
# Of eight splits tried, one on which logistic regression is close to its mean over many (AUC 0.84): neither lucky nor
# hard.
SPLIT_SEED = 2028


@dataclass(frozen=True, slots=True)
class Application:
    """One application: its features (None for a missing value) and whether the loan went bad."""

    features: dict[str, Any]
    defaulted: bool


@dataclass(frozen=True, slots=True)
class Split:
    """60 % to train on, 20 % to calibrate with, 20 % held out."""

    train: list[Application]
    calibration: list[Application]
    held_out: list[Application]


def read_applications(path: Path = CREDIT_DATA) -> list[Application]:
    """Returns all applications, in the file's order."""
    applications = []
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            features: dict[str, Any] = {}
            for name in NUMBERS:
                features[name] = float(row[name]) if row[name] not in ("", "NA") else None
            for name in CATEGORIES:
                features[name] = row[name] if row[name] not in ("", "NA") else None
            applications.append(Application(features, row["Status"] == "bad"))
    return applications


def split(applications: list[Application]) -> Split:
    """Returns the three parts, always the same."""
    shuffled = list(applications)
    random.Random(SPLIT_SEED).shuffle(shuffled)  # noqa: S311 - a split, not a secret
    first, second = round(0.6 * len(shuffled)), round(0.8 * len(shuffled))
    return Split(shuffled[:first], shuffled[first:second], shuffled[second:])
