"""Models, processors and decoding. Every file here travels to the Hub with a checkpoint, this one excepted."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from .configuration_care import CareConfig
from .configuration_mpq import MpqConfig
from .configuration_rearec import ReaRecConfig
from .configuration_reg4rec import Reg4RecConfig
from .configuration_residual_kmeans import ResidualKMeansConfig
from .configuration_rq_vae import RqVaeConfig
from .modeling_care import CareForCausalLM, CareModel
from .modeling_mpq import MpqTokenizer
from .modeling_rearec import ReaRecForNextItem, ReaRecModel
from .modeling_reg4rec import Reg4RecForConditionalGeneration, Reg4RecModel
from .modeling_residual_kmeans import ResidualKMeansTokenizer
from .modeling_rq_vae import RqVaeTokenizer

AutoConfig.register(CareConfig.model_type, CareConfig)
AutoModel.register(CareConfig, CareModel)
AutoModelForCausalLM.register(CareConfig, CareForCausalLM)

AutoConfig.register(ReaRecConfig.model_type, ReaRecConfig)
AutoModel.register(ReaRecConfig, ReaRecModel)
AutoModelForSequenceClassification.register(ReaRecConfig, ReaRecForNextItem)

AutoConfig.register(Reg4RecConfig.model_type, Reg4RecConfig)
AutoModel.register(Reg4RecConfig, Reg4RecModel)
AutoModelForSeq2SeqLM.register(Reg4RecConfig, Reg4RecForConditionalGeneration)

AutoConfig.register(ResidualKMeansConfig.model_type, ResidualKMeansConfig)
AutoModel.register(ResidualKMeansConfig, ResidualKMeansTokenizer)

AutoConfig.register(RqVaeConfig.model_type, RqVaeConfig)
AutoModel.register(RqVaeConfig, RqVaeTokenizer)

AutoConfig.register(MpqConfig.model_type, MpqConfig)
AutoModel.register(MpqConfig, MpqTokenizer)
