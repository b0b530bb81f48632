"""The loss of a question over the documents found for it: REALM's marginal likelihood, and penalties beside it.

Each document is a prefix of its own: a micro batch of B questions is a pass of the frozen language model over B k
sequences. Their answers' log probabilities and the retriever's scores make one loss for each question, which trains
both: the knowledge encoder by each document's share of the posterior p(z|x, y), the retriever by r(z, x) p(z|x).
"""

# Dims in this file.
#   B questions   K documents of each   P = B K   S tokens of a sequence   n tokens or states of a document
#   T tokens of a text for the retriever   E width of a vector

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from retro.mcore import parallel
from retro.mcore.engine import unwrap_model
from retro.model.prefix import PrefixInputs
from retro.model.weight_names import ADDED_MODULE
from retro.recipes.dynamic_prefix.joint.config import JointConfig
from retro.recipes.dynamic_prefix.joint.marginal import answer_log_probs, document_scores, marginal_loss
from retro.recipes.dynamic_prefix.joint.penalties import EncodedDocuments, WeightedPenalties
from retro.recipes.dynamic_prefix.joint.refresh import IndexRefresher
from retro.recipes.dynamic_prefix.joint.retriever import RETRIEVER, JointRetriever
from retro.recipes.dynamic_prefix.joint.source import (
    DOCUMENT_IDS,
    DOCUMENT_MARKS,
    GROUPS,
    NUMBERS,
    QUESTION_IDS,
    QUESTION_MARKS,
)
from retro.recipes.dynamic_prefix.training.parts import encoder_of
from retro.recipes.dynamic_prefix.training.samples import IDS, REAL
from retro.training.data_loader import MicroBatch


class JointLoss:
    """As `token_losses`, but one loss for each question: [B, 1], with a mask of 1 where it counts.

    The engine divides the sum of losses by the sum of masks, so a step's loss is the mean over its questions.

    Attributes:
        step: The step that is computed, or was last; counted from 1.
    """

    def __init__(self, config: JointConfig, refresher: IndexRefresher) -> None:
        """Set up.

        Args:
            config: Temperature, penalties, batch.
            refresher: Is given the retriever's weights when they are to be a snapshot.

        Raises:
            ConfigError: A penalty does not exist.
        """
        self._config, self._refresher = config, refresher
        self._penalties = WeightedPenalties(config.penalties)
        self.step = 1

    def __call__(self, model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """[B, 1] losses, in nats of a whole answer, and their mask."""
        if model.training:
            self._begin_step(model, batch)
        encoded, prefix = _encoded(model, batch)
        there_BK = batch.further[REAL].any(dim=-1)
        answers_BK = _answers(model, batch, prefix).view_as(there_BK)
        loss_B = marginal_loss(self._scores(model, batch), answers_BK, there_BK)
        if self._penalties and model.training:
            # One number for the micro batch; added to each question's loss it counts once in their mean.
            loss_B = loss_B + self._penalties(encoded, batch)
        counts_B = there_BK.any(dim=-1)
        if batch.loss_mask_BS is not None:
            counts_B = counts_B & (batch.loss_mask_BS > 0).any(dim=-1)
        return loss_B[:, None], counts_B[:, None].float()

    def _scores(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        """[B, K] f(x, z) / temperature, of the retriever as it is now."""
        retriever = retriever_of(model)
        ids_BKT, marks_BKT = batch.further[DOCUMENT_IDS], batch.further[DOCUMENT_MARKS]
        question_BE = retriever.question(batch.further[QUESTION_IDS], batch.further[QUESTION_MARKS])
        document_PE = retriever.document(ids_BKT.flatten(0, 1), marks_BKT.flatten(0, 1))
        documents_BKE = document_PE.unflatten(0, ids_BKT.shape[:2])
        return document_scores(question_BE, documents_BKE, self._config.temperature)

    def _begin_step(self, model: nn.Module, batch: MicroBatch) -> None:
        """Take a snapshot where the weights before this step are to be one."""
        step = int(batch.further[NUMBERS][0]) // self._config.train.global_batch + 1
        if step == self.step and step > 1:
            return
        self.step = step
        if step > 1 and self._refresher.schedule.taken_after(step - 1):
            publish(self._refresher, step - 1, retriever_of(model))


def publish(refresher: IndexRefresher, snapshot: int, retriever: JointRetriever) -> None:
    """Take a snapshot: one process writes it, those that read samples build its index."""
    reads = parallel.tensor_parallel_rank()[0] == 0
    refresher.publish(snapshot, retriever, writes=parallel.is_main(), builds=reads)


def retriever_of(model: Any) -> JointRetriever:
    """The retriever beside a network, bare or as an engine wraps it."""
    found: JointRetriever = getattr(unwrap_model(model), f"{ADDED_MODULE}{RETRIEVER}")
    return found


def _encoded(model: nn.Module, batch: MicroBatch) -> tuple[EncodedDocuments, PrefixInputs]:
    """The documents' states, and as P prefixes of one document each."""
    encoder = encoder_of(model)
    ids_Pn, real_Pn = batch.further[IDS].flatten(0, 1), batch.further[REAL].flatten(0, 1)
    states_PnE, kept_Pn = encoder.documents(ids_Pn, real_Pn)
    states_nPE = states_PnE.transpose(0, 1)
    groups_P = batch.further[GROUPS].flatten()
    encoded = EncodedDocuments(states_nNE=states_nPE, real_Nn=kept_Pn, groups_N=groups_P)
    return encoded, PrefixInputs(*encoder.with_static(states_nPE, kept_Pn))


def _answers(model: nn.Module, batch: MicroBatch, prefix: PrefixInputs) -> Tensor:
    """[P] log p(y|x, z) of each question's answer with each of its documents."""
    if batch.tokens_BS is None or batch.labels_BS is None or batch.loss_mask_BS is None:
        raise ValueError("the marginal likelihood needs tokens and labels on one stage")
    times = batch.further[IDS].size(1)
    tokens_PS, labels_PS, mask_PS = (
        one.repeat_interleave(times, dim=0) for one in (batch.tokens_BS, batch.labels_BS, batch.loss_mask_BS)
    )
    token_mask_PS = None if batch.token_mask_BS is None else batch.token_mask_BS.repeat_interleave(times, dim=0)
    losses_PS = model(tokens_PS, token_mask_BS=token_mask_PS, labels_BS=labels_PS, prefix=prefix)
    return answer_log_probs(losses_PS, mask_PS)
