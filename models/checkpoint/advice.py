"""What to do about a file that is refused."""

from __future__ import annotations

CUT = "Upload it again: it seems to have been cut or altered on the way."

# Doubled, since torch.export fixes a batch of one.
EXPORT = """Export it, with all of its inputs in place of example:
    inputs = tuple(torch.cat([each, each]) for each in (example,))  # any batch but 1, which would be fixed
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model.eval(), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    torch.export.save(exported, "model.pt2")"""

STATE = f"""Save the weights alone and name their `architecture`:
    torch.save(model.state_dict(), "weights.pt")
or from a checkpoint of your own, by the key of the weights in it:
    torch.save(torch.load("checkpoint.pt", weights_only=False)["state_dict"], "weights.pt")
Or: {EXPORT}"""

SAVED = """Write it with torch.export.save:
    torch.export.save(exported, "model.pt2")"""
