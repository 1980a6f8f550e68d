"""The shipped topologies, and the base class of your own."""

from topologies.base import Topology as Topology
from topologies.cascade import Cascade as Cascade
from topologies.chain import Chain as Chain
from topologies.graph import Graph as Graph
from topologies.hybrid import Hybrid as Hybrid
from topologies.independent import Independent as Independent
from topologies.mesh import Mesh as Mesh
from topologies.single import Single as Single
from topologies.star import Star as Star
from topologies.tree import Tree as Tree

__all__ = ("Cascade", "Chain", "Graph", "Hybrid", "Independent", "Mesh", "Single", "Star", "Topology", "Tree")
