"""Models, processors and decoding. Every file here travels to the Hub with a checkpoint, this one excepted."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from .configuration_care import CareConfig
from .configuration_rearec import ReaRecConfig
from .modeling_care import CareForCausalLM, CareModel
from .modeling_rearec import ReaRecForNextItem, ReaRecModel

AutoConfig.register(CareConfig.model_type, CareConfig)
AutoModel.register(CareConfig, CareModel)
AutoModelForCausalLM.register(CareConfig, CareForCausalLM)

AutoConfig.register(ReaRecConfig.model_type, ReaRecConfig)
AutoModel.register(ReaRecConfig, ReaRecModel)
AutoModelForSequenceClassification.register(ReaRecConfig, ReaRecForNextItem)
