"""Beams as extra slots of the prompt's own row: the prompt is encoded once, and nothing is copied when beams branch.

All beams of a user share one row of keys and values. A step appends, for each beam, the slot of its newest token; an
ancestry mask lets it see the prompt and the slots of the tokens it descends from.
"""

import torch
from transformers import Cache

from ..catalogue.transformers_bridge import CACHE, DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer in a buffer with room for the beams to come: appending copies only what is new."""

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.record: torch.Tensor | None = None

    def keep_record(self, record: torch.Tensor) -> None:
        """Keep the record (B, T, R) of new slots whose keys and values can be looked up."""
        self.record = record if self.record is None else torch.cat([self.record, record], 1)

    def kept(self, row: int, slots: torch.Tensor) -> torch.Tensor:
        """What is to be kept of a prompt's slots (n,): keys and values (2, heads, n, head_dim), or (1, 1, n, R)."""
        if self.record is not None:
            return self.record[row, slots][None, None]
        return torch.stack([buffer[row][:, slots] for buffer in self.buffers])

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.buffers = tuple(
            states.new_empty(*states.shape[:2], self.room, states.shape[3]) for states in (key_states, value_states)
        )
        self.filled = 0
        self.keys, self.values = (buffer[:, :, :0] for buffer in self.buffers)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self.filled, self.filled + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        self.filled = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values


class BeamDecoder:
    """
    Decodes many beams per prompt with any decoder whose logits are aligned with its tokens.

    The model is called as transformers' decoders are: `model.base_model(input_ids, attention_mask, position_ids,
    cache)` with a mask (B, 1, rows, columns), and `model.get_output_embeddings()` turns states into logits. A
    model that feeds more than the token itself brings a subclass as its `beam_decoder_class`.

    Args:
        model: the decoder.
        num_beams: the most beams of a prompt in any step.
        num_steps: how often [`extend`] will be called at most.

    Attributes:
        cache: keys and values of the prompts and of all beams so far.
        layers: those of `cache`.
        prompt_mask: (B, E) boolean, the prompt's slots that are not padding.
        position: (B,) rotary position of the newest slot, the same for all beams of a prompt.
        ancestors: (B, W, S) boolean, which of the S beam slots so far each beam descends from; the only part that
            depends on which beams survive.
    """

    cache: Cache
    layers: list[RoomyLayer]
    prompt_mask: torch.Tensor
    position: torch.Tensor
    ancestors: torch.Tensor

    def __init__(self, model, num_beams: int, num_steps: int):
        self.model = model
        self.num_steps = num_steps
        self.room = num_beams * num_steps

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prefix: torch.Tensor | None = None):
        """
        Encode the prompts.

        Args:
            input_ids, attention_mask: (B, T), padding anywhere but at the end.
            prefix (*optional*): (layers, 2, B, heads, P, head_dim), the keys and values of the first P columns; or
                (layers, 1, B, 1, P, R), their records, which the model looks up.

        Returns:
            (B, 1, hidden_size), the states that predict the first token.
        """
        room = self.prompt_slots(input_ids.shape[1]) + self.room
        self.layers = [RoomyLayer(room) for _ in range(self.num_layers())]
        self.cache = Cache(layers=list(self.layers))
        past = 0
        if prefix is not None:
            past = prefix.shape[4]
            for index, kept in enumerate(prefix):
                self.cache.update(*self.keys_values(kept, index), index)
        states = self.encode(input_ids, attention_mask, past)
        self.ancestors = torch.ones(len(input_ids), 1, 0, dtype=torch.bool, device=input_ids.device)
        return states

    def extend(self, codes: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """
        Append a token to each beam.

        Args:
            codes: (B, W) the tokens chosen.
            parents: (B, W) the beams of the step before that they continue.

        Returns:
            (B, W, hidden_size), the states that predict the next token.
        """
        return self.extend_slots(*self.new_slots(codes), parents)

    def extend_slots(
        self, embeddings: torch.Tensor, prompt: torch.Tensor, inside: torch.Tensor, parents: torch.Tensor
    ) -> torch.Tensor:
        """
        Append slots to each beam.

        Args:
            embeddings, prompt, inside: as [`new_slots`] gives them.
            parents: (B, W) the beams of the step before that they continue.

        Returns:
            (B, W, hidden_size), the states of each beam's last slot.
        """
        width, size = embeddings.shape[1:3]
        prompt = prompt[:, None].expand(-1, width, -1, -1)  # (B, W, size, E)
        # Of earlier beam slots: those it descends from.
        ancestors = self.ancestors.gather(1, parents[..., None].expand(-1, -1, self.ancestors.shape[2]))
        earlier = ancestors[:, :, None, :].expand(-1, -1, size, -1)
        own_beam = torch.eye(width, dtype=torch.bool, device=parents.device)
        new = (own_beam[:, None, :, None] & inside[None, :, None, :]).reshape(width, size, width * size)
        new = new.expand(len(parents), -1, -1, -1)
        allowed = torch.cat([prompt, earlier, new], dim=-1).flatten(1, 2)  # (B, W * size, E + slots + W * size)

        position = self.position[:, None, None] + torch.arange(1, size + 1, device=parents.device)
        states = self.decode(embeddings.flatten(1, 2), allowed, position.expand(-1, width, -1).flatten(1, 2), size)
        own_slots = own_beam.repeat_interleave(size, dim=1).expand(len(parents), -1, -1)
        self.ancestors = torch.cat([ancestors, own_slots], dim=-1)
        self.position = self.position + size
        return states

    # ---- what depends on the model ----

    def num_layers(self) -> int:
        """Layers that keep keys and values of the beams."""
        return self.model.config.num_hidden_layers

    def logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        """Logits (B, W, vocab_size) of the code of `level`, from states (B, W, hidden_size)."""
        return self.model.get_output_embeddings()(states)

    def keys_values(self, kept: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, heads, P, head_dim) of a layer, from what was kept of the first P columns."""
        if len(kept) == 2:
            keys, values = kept
            return keys, values
        record = kept[0, :, 0]
        self.layers[layer].keep_record(record)
        return self.look_up(record, layer)

    def look_up(self, record: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a model whose cache keeps records: what [`keys_values`] gives, from the record (B, P, R)."""
        raise NotImplementedError

    def prompt_slots(self, num_tokens: int) -> int:
        """Slots of a prompt of so many tokens."""
        return num_tokens

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: int) -> torch.Tensor:
        """Encode the columns from `past` on; sets `prompt_mask` and `position`."""
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        self.prompt_mask, self.position = attention_mask.bool(), positions[:, -1]
        outputs = self.model.base_model(
            input_ids=input_ids[:, past:],
            attention_mask=attention_mask,
            position_ids=positions[:, past:],
            use_cache=True,
            return_dict=True,
            **{CACHE: self.cache},
        )
        return outputs.last_hidden_state[:, -1:]

    def new_slots(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        What a beam appends with its token.

        Returns:
            embeddings (B, W, size, hidden_size); the prompt's slots they may see, (B, size, E); and those of their own
            beam's new slots, (size, size).
        """
        embeddings = self.model.get_input_embeddings()(codes).unsqueeze(2)
        return embeddings, self.prompt_mask[:, None], torch.ones(1, 1, dtype=torch.bool, device=codes.device)

    def decode(
        self, embeddings: torch.Tensor, allowed: torch.Tensor, positions: torch.Tensor, size: int
    ) -> torch.Tensor:
        """
        States (B, W, hidden_size) of the last of each beam's `size` new slots.

        Args:
            embeddings: (B, W * size, hidden_size).
            allowed: (B, W * size, columns), which slots the new ones may attend to.
            positions: (B, W * size).
        """
        outputs = self.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=additive_mask(allowed, embeddings.dtype),
            position_ids=positions,
            use_cache=True,
            return_dict=True,
            **{CACHE: self.cache},
        )
        return outputs.last_hidden_state[:, size - 1 :: size]


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, rows, columns) boolean, True = attended, as attention layers of every kind take it: (B, 1, rows, columns)."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min).unsqueeze(1)
