"""The judge: is this implementation the same function as that one, for all inputs?

It receives callables and integers and imports nothing of what it judges: errors and their words.
"""

from convgraph.door import doors as _doors
from convgraph.proof.draws import EPSILON
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.layer.judge import prove_convolution
from convgraph.proof.layer.linear import prove_linear
from convgraph.proof.layer.maximum import prove_maximum
from convgraph.proof.layer.premise.check import Premise, check_premise
from convgraph.proof.layer.rounding import Bounds, bounds
from convgraph.proof.record.certificate import Certificate, Part
from convgraph.proof.record.counterexample import Counterexample, TypedEdge
from convgraph.proof.refutation.shrink import explain_refutation
from convgraph.proof.roundoff import dot_bound, unit_roundoff
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
    "prove_maximum",
    "unit_roundoff",
]

for _kind in (ConvSpec, Oracle):
    _doors(_kind)
