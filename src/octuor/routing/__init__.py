"""Which experts play each token: recorded by the engine, traced in a text, measured and drawn."""

from octuor.routing.recording import Recording
from octuor.routing.values import Alternatives, Routing, TokenRoutes

__all__ = ["Alternatives", "Recording", "Routing", "TokenRoutes"]
