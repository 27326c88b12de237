"""Models, processors and decoding. Every file here travels to the Hub with a checkpoint, this one excepted."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_care import CareConfig
from .modeling_care import CareForCausalLM, CareModel

AutoConfig.register(CareConfig.model_type, CareConfig)
AutoModel.register(CareConfig, CareModel)
AutoModelForCausalLM.register(CareConfig, CareForCausalLM)
