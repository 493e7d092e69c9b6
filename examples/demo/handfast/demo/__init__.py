"""What `handfast demo` shows: changes that commit everywhere, and one that is refused. An example of the client.

show.py     runs the tour on a suite that answers, or on one that is started for it
tour.py     the tour itself: each step a call or two, and what the services say then
"""

from handfast.demo.show import show
from handfast.demo.tour import DemoError

__all__ = ["DemoError", "show"]
