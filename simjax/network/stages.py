"""Pp stages on nodes, and the way of hidden states from one to the next.

A stage sends two tensors, hidden states and residual, of as many rows as its CUDA graph has (vLLM's `isend_tensor_dict` in
`execute_model`): 2 · rows · hidden size · bytes of an element. Of t tensor-parallel ranks each sends its t-th part to its counterpart, and
those of the next stage gather the parts. The send does not hold up the stage that sends.
"""

from __future__ import annotations

import numpy as np

from simjax.hardware import LinkSpec, NodeSpec
from simjax.network.collectives import all_gather_s

TENSORS = 2
BROADCAST_BYTES = 16  # of a sampled token: its id and two counts
DRAFT_BYTES = 16  # of a draft: the place of its id among the sampled tokens, and the id of the next one
CAPTURE_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Rows for which vLLM captures CUDA graphs by default; steps of more tokens have as many rows as tokens."""


def stages_per_node(node: NodeSpec, tensor: int, stages: int) -> int:
    """Stages on one node: the most that fit and leave no node with fewer; 1 where a stage fills a node, or several."""
    return max((k for k in range(1, stages + 1) if stages % k == 0 and k * tensor <= node.devices_per_node), default=1)


def nodes_of_stages(node: NodeSpec, tensor: int, stages: int) -> int:
    """Servers of an instance whose stages have `tensor` devices each; a stage that fits a node is on one."""
    return stages // stages_per_node(node, tensor, stages) * node.nodes_for(tensor)


def link_between(node: NodeSpec, link: LinkSpec, tensor: int, stages: int, source: int, target: int) -> LinkSpec:
    """Link of a device of a stage to its counterpart in another one.

    Args:
        node: type of node.
        link: link between the devices of an instance; one other than that within the node was given for all of them.
        tensor: devices of a stage.
        stages: number of stages.
        source: number of the stage that sends, counted from 0.
        target: number of the other one.
    """
    each = stages_per_node(node, tensor, stages)
    within = link != node.intra_link or (tensor <= node.devices_per_node and source // each == target // each)
    return link if within else node.inter_link_of(tensor)


def rows_of(tokens: np.ndarray, graphs: bool) -> np.ndarray:
    """Rows of steps with so many tokens, padded to the next captured size where CUDA graphs run them."""
    sizes = np.array(CAPTURE_SIZES)
    padded = sizes[np.minimum(np.searchsorted(sizes, tokens), len(sizes) - 1)]
    return np.where(graphs & (tokens <= sizes[-1]), padded, tokens)


def boundary_s(rows: np.ndarray, row_bytes: float, tensor: int, between: LinkSpec, within: LinkSpec) -> np.ndarray:
    """Seconds in which the hidden states of so many rows reach all devices of the next stage, of the shape of `rows`.

    Args:
        rows: rows of the step.
        row_bytes: bytes of a row of one tensor.
        tensor: devices of a stage.
        between: link between a device and its counterpart.
        within: link between the devices of the next stage.
    """
    part_bytes = TENSORS * rows * row_bytes / tensor
    one_way_s = between.latency_s + part_bytes / between.rate_bytes_per_s + 2 * between.endpoint_s
    return one_way_s + all_gather_s(part_bytes, tensor, within)


def broadcast_s(link: LinkSpec, sequences: int, drafts: int = 0) -> float:
    """Seconds until tokens and next drafts of so many sequences are at the first stage: a small message, sent beside the computation."""
    return link.latency_s + sequences * (BROADCAST_BYTES + drafts * DRAFT_BYTES) / link.rate_bytes_per_s
