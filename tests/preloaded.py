"""Imports that a worker makes while it runs, made once in the fork server.

Plotly and Pillow import their parts when these are first used.
"""

from PIL import Image

from tuner.views.style import new_figure

Image.init()
new_figure("").add_scatter(x=[0], y=[0]).to_json()
