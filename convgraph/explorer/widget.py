"""The page as a notebook widget; the only file that knows anywidget and IPython.

A widget view is empty without a kernel and, in an exported notebook, without a network. So the
widget is shown twice: as the live view, and as the whole page in a frame, with tables beneath it
for viewers that remove frames. While a live view exists it hides the other.
"""

from html import escape
from typing import Any
from uuid import uuid4

import anywidget
import traitlets

from convgraph.explorer.source import module, page, style
from convgraph.explorer.still import tables


class Explorer(anywidget.AnyWidget):
    """The explorer of one layer on one image.

    Attributes:
        state: what the page opens with; assigning it opens the page again.
        seen: what the page shows now: `config` (every number of the layer and of the image),
            `split`, `pixel` (row, column), `channel` and `value`.
        still: the name of the frame that a live view hides.
    """

    _esm = module()
    _css = style()
    state = traitlets.Dict().tag(sync=True)
    seen = traitlets.Dict().tag(sync=True)
    still = traitlets.Unicode().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(still=uuid4().hex, **traits)

    def _repr_html_(self) -> str:
        """The page in a frame, as it was opened, and its tables: no kernel and no network."""
        shown = tables(self.state)
        # A hidden frame that loads lazily loads nothing.
        return (
            f'<div data-convgraph-still="{self.still}"><iframe title="convgraph explorer" '
            'loading="lazy" style="width:100%;height:860px;border:0" '
            f'srcdoc="{escape(page(self.state, still=shown))}"></iframe>\n'
            f"<details><summary>The same as tables</summary>\n{shown}\n</details></div>"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The live view for a notebook, and the page for whoever has no kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        return {**data, "text/html": self._repr_html_()}, metadata

    def _ipython_display_(self, **kwargs: Any) -> None:
        """Publish live view and page apart: of one output an export shows the view alone."""
        from IPython.display import publish_display_data

        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            publish_display_data(*bundle)
        publish_display_data(
            {"text/html": self._repr_html_(), "text/plain": "the explorer, as a page"}
        )
