"""What a voxel of a phantom is."""

from __future__ import annotations

from enum import IntEnum


class Label(IntEnum):
    """Structure that fills most of a voxel. AIR is everything outside the body, at exactly -1000 HU unless
    the phantom lies on a table, whose soft edges reach into it."""

    AIR = 0
    BODY = 1  # fat, muscle and every soft tissue without a label of its own
    LUNG = 2
    HEART = 3
    VESSEL = 4
    AIRWAY = 5
    MEDIASTINUM = 6
    LIVER = 7
    STOMACH = 8
    GAS = 9
    BREAST = 10
    CARTILAGE = 11  # costal cartilages and intervertebral discs
    BONE_SPINE = 12
    BONE_RIB = 13
    BONE_STERNUM = 14
    BONE_CLAVICLE = 15
    BONE_SCAPULA = 16
    BONE_HUMERUS = 17
    TABLE = 18
    MATTRESS = 19
