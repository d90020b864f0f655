"""MRML nodes <-> CTs, radiographs, view sequences, markups: the only room that knows `slicer`.

Works in 3D Slicer and, without an application, with the PyPI package slicer-core after `new_scene()`.
Bad input raises SVDRRError before a node is added or changed.
"""

from svdrr.mrml.ct import ct_from_node, ct_to_node, masks_to_segmentation
from svdrr.mrml.markups import ProjectedMarkups, markups_on_view, project_markups, triangulate_markups
from svdrr.mrml.model import view_to_model
from svdrr.mrml.radiograph import radiograph_from_node, radiograph_to_node
from svdrr.mrml.scene import new_scene, save_scene
from svdrr.mrml.sequence import remove_sequence, views_from_sequence, views_to_sequence

__all__ = [
    "ProjectedMarkups",
    "ct_from_node",
    "ct_to_node",
    "markups_on_view",
    "masks_to_segmentation",
    "new_scene",
    "project_markups",
    "radiograph_from_node",
    "radiograph_to_node",
    "remove_sequence",
    "save_scene",
    "triangulate_markups",
    "view_to_model",
    "views_from_sequence",
    "views_to_sequence",
]
