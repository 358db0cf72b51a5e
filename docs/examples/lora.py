"""Fine-tune a token classifier with LoRA, and with AttnMixup before its head. Downloads nothing."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForTokenClassification

from attnmixup import AttnMixup
from attnmixup.integrations.hugging_face import AttnMixupForClassification

torch.manual_seed(0)
config = BertConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
)
# First LoRA, which freezes the encoder, then AttnMixup, all of whose parameters learn.
adapted = get_peft_model(
    BertForTokenClassification(config),
    LoraConfig(r=8, target_modules=["query", "value"], modules_to_save=["classifier"]),
)
model = AttnMixupForClassification(adapted, AttnMixup(dim=32), head="base_model.model.classifier")
learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
optimizer = torch.optim.AdamW(learning.values(), lr=1e-2)


def draw_batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random tokens. The tag of a token is its id modulo 3."""
    tokens = torch.randint(4, 40, (size, 10))
    return tokens, tokens % 3


for _ in range(40):
    tokens, labels = draw_batch(16)
    loss = model(input_ids=tokens, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

tokens, labels = draw_batch(64)
with torch.no_grad():
    predicted = model.eval()(input_ids=tokens).logits.argmax(-1)
changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
assert changed == learning.keys()  # the encoder is unchanged
print("changed:", sorted({name.split(".")[-2] for name in changed}))
print(f"accuracy {(predicted == labels).float().mean():.2f}")
