"""The judge: is this implementation the same function as that one, for all inputs?

It receives callables and integers and imports nothing of what it judges: errors only.
"""

from convgraph.proof.certificate import Certificate, Part
from convgraph.proof.counterexample import Counterexample, TypedEdge
from convgraph.proof.draws import EPSILON
from convgraph.proof.judge import prove_convolution, prove_linear
from convgraph.proof.oracle import Oracle
from convgraph.proof.premise import Premise, check_premise
from convgraph.proof.rounding import Bounds, bounds, dot_bound, unit_roundoff
from convgraph.proof.shrink import explain_refutation
from convgraph.proof.spec import ConvSpec
from convgraph.proof.symbolic import SymbolicProof, prove_all_sizes

__all__ = [
    "EPSILON",
    "Bounds",
    "Certificate",
    "ConvSpec",
    "Counterexample",
    "Oracle",
    "Part",
    "Premise",
    "SymbolicProof",
    "TypedEdge",
    "bounds",
    "check_premise",
    "dot_bound",
    "explain_refutation",
    "prove_all_sizes",
    "prove_convolution",
    "prove_linear",
    "unit_roundoff",
]
