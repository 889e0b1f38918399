"""Faces drawn from action units, with exact intensities: data for demonstrations and tests.

`draw_face` draws one face from 24 intensities, an `Identity` and a `Scene`. `draw_faces` draws a data set with a
manifest, whose ``action_units_source`` marks the faces as drawn. `prototypes` defines the action units of each
expression; `canvas`, `head`, `eyes` and `mouth` do the drawing.
"""

from explllm.drawn_faces.dataset import draw_faces
from explllm.drawn_faces.identity import Identity, Scene
from explllm.drawn_faces.prototypes import PROTOTYPES, sample_action_units
from explllm.drawn_faces.renderer import draw_face

__all__ = ["PROTOTYPES", "Identity", "Scene", "draw_face", "draw_faces", "sample_action_units"]
