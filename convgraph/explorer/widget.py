"""The page as a notebook widget; the only file that knows anywidget.

A notebook that is exported without a kernel keeps the page: beside the live view the output of the
widget carries the whole page as HTML. May import explorer.source.
"""

from html import escape
from typing import Any

import anywidget
import traitlets

from convgraph.explorer.source import module, page, style


class Explorer(anywidget.AnyWidget):
    """The explorer of one layer on one image.

    Attributes:
        state: what the page opens with; assigning it opens the page again.
        seen: what the page shows now: `config` (every number of the layer and of the image),
            `split`, `pixel` (row, column), `channel` and `value`.
    """

    _esm = module()
    _css = style()
    state = traitlets.Dict().tag(sync=True)
    seen = traitlets.Dict().tag(sync=True)

    def _repr_html_(self) -> str:
        """The page in a frame, as it was opened: needs no kernel and no network."""
        return (
            '<iframe title="convgraph explorer" style="width:100%;height:860px;border:0" '
            f'srcdoc="{escape(page(self.state))}"></iframe>'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The live view for a notebook, and the page for whoever has no kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        return {**data, "text/html": self._repr_html_()}, metadata
