"""Published figures, tables and claims built again, each with the published numbers beside ours and a verdict.

`CATALOGUE` lists them; `reproduce` measures one and returns `Findings`; `write_findings` writes them with their figure.
"""

from stillscape.reproductions.catalogue import Reproduction, Settings, Workplace
from stillscape.reproductions.findings import VERDICTS, Claim, Findings, Heat, Line, Number, Panel
from stillscape.reproductions.run import CATALOGUE, read_findings, reproduce, write_findings

__all__ = [
    "CATALOGUE",
    "VERDICTS",
    "Claim",
    "Findings",
    "Heat",
    "Line",
    "Number",
    "Panel",
    "Reproduction",
    "Settings",
    "Workplace",
    "read_findings",
    "reproduce",
    "write_findings",
]
