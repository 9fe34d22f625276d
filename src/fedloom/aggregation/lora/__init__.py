"""Algorithms that know what LoRA's factors mean.

Adapters are named tensors as in PEFT: "<layer>.lora_A.weight" [r, in] and "<layer>.lora_B.weight" [out, r], whose
product, times one scale for all ranks, is added to the layer's weight.

Averaging both factors, as FedAvg does, is not averaging products: it is off by -s sum_k p_k (B_k - Bbar)(A_k - Abar).
"""
