"""What to do about a file that is refused."""

from __future__ import annotations

CUT = "Upload it again: it seems to have been cut or altered on the way."

EXPORT = """Export it again with torch 2.10 or later:
    exported = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(exported, "model.pt2")"""

STATE = f"""Save the weights alone, torch.save(model.state_dict(), "weights.pt"), and name the architecture.
Or: {EXPORT}"""
