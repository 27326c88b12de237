"""Answers to the same prompt, found in a batch whatever their order, so that the prompt is encoded once for all."""

from dataclasses import dataclass

import torch

from hf_genrec.catalogue.flat_lists import rank_in_list


@dataclass
class PromptGroups:
    """
    Attributes:
        prompts: (U, S) the different prompts, -1 where one is padded.
        row: (n,) the prompt that each answer belongs to.
        place: (n,) which of this prompt's answers it is, 0, 1, ...
        most: the most answers of a prompt.
    """

    prompts: torch.Tensor
    row: torch.Tensor
    place: torch.Tensor
    most: int

    @classmethod
    def find(cls, prompts: torch.Tensor, attention_mask: torch.Tensor) -> "PromptGroups":
        """The groups of prompts (n, S), padded on the left, with their mask."""
        different, row = torch.unique(prompts.masked_fill(attention_mask == 0, -1), dim=0, return_inverse=True)
        order = row.argsort(stable=True)
        counts = torch.bincount(row, minlength=len(different))
        place = torch.empty_like(row)
        place[order] = rank_in_list(row[order], counts)
        return cls(different, row, place, int(counts.max()))

    def spread(self, values: torch.Tensor, missing: int) -> torch.Tensor:
        """Values of the answers (n, ...) as (U, most, ...), prompt by prompt; `missing` where a prompt has fewer."""
        table = values.new_full((len(self.prompts), self.most, *values.shape[1:]), missing)
        table[self.row, self.place] = values
        return table
