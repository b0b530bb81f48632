"""Names of settings that DeepSpeed reads (its constants and config classes, version 0.19), for finding misspelled ones.

Sections that say nothing about a run's training, such as `flops_profiler`, are known by name and not looked into.
"""

from __future__ import annotations

BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")

TOP = frozenset(
    (
        *BATCH,
        *("optimizer", "scheduler", "zero_optimization", "bf16", "bfloat16", "fp16", "amp", "gradient_clipping"),
        *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "communication_data_type"),
        *("seq_parallel_communication_data_type", "prescale_gradients", "gradient_predivide_factor"),
        *("gradient_allreduce_op", "sparse_gradients", "managed_gradient_accumulation", "torch_autocast"),
        *("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "check_overflow"),
        *("disable_allgather", "graph_harvesting", "activation_checkpointing", "flops_profiler", "autotuning"),
        *("sparse_attention", "tensorboard", "wandb", "comet", "csv_monitor", "comms_logger", "checkpoint"),
        *("data_types", "dataloader_drop_last", "progressive_layer_drop", "eigenvalue", "pipeline", "aio"),
        *("curriculum_learning", "data_efficiency", "compression_training", "quantize_training", "elasticity"),
        *("hybrid_engine", "nebula", "datastates_ckpt", "compile", "timers", "tensor_parallel", "expert_parallel"),
        *("weight_quantization", "sequence_parallel_size", "data_parallel_size", "vocabulary_size"),
        *("use_data_before_expert_parallelism", "log_level"),
    )
)
ZERO = frozenset(
    (
        *("stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "allgather_partitions"),
        *("use_multi_rank_bucket_allreduce", "allgather_bucket_size", "overlap_comm", "load_from_fp32_weights"),
        *("elastic_checkpoint", "offload_param", "offload_optimizer", "zenflow", "sub_group_size", "cpu_offload"),
        *("cpu_offload_param", "cpu_offload_use_pin_memory", "stage3_prefetch_bucket_size"),
        *("stage3_param_persistence_threshold", "stage3_model_persistence_threshold", "stage3_max_live_parameters"),
        *("stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save", "stage3_allgather_sequential"),
        *("stage3_module_granularity_threshold", "stage3_use_all_reduce_for_fetch_params"),
        *("stage3_gather_fp16_weights_on_model_save", "ignore_unused_parameters", "legacy_stage1"),
        *("round_robin_gradients", "zero_hpz_partition_size", "zero_quantized_weights"),
        *("zero_quantized_nontrainable_weights", "zero_quantized_gradients", "zeropp_loco_param", "mics_shard_size"),
        *("mics_hierarchical_params_gather", "memory_efficient_linear", "pipeline_loading_checkpoint"),
        *("override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks", "leaf_module"),
        "save_muon_momentum_buffer_in_memory",
    )
)
_OFFLOAD = ("device", "nvme_path", "buffer_count", "pin_memory")
SECTIONS: dict[str, frozenset[str]] = {
    "": TOP,
    "zero_optimization": ZERO,
    "zero_optimization.offload_param": frozenset((*_OFFLOAD, "buffer_size", "max_in_cpu")),
    "zero_optimization.offload_optimizer": frozenset(
        (*_OFFLOAD, "pipeline_read", "pipeline_write", "fast_init", "ratio", "super_offload", "cpuadam_cores_perc")
    ),
    "optimizer": frozenset(("type", "params", "legacy_fusion")),
    "scheduler": frozenset(("type", "params")),
    "bf16": frozenset(
        (
            *("enabled", "immediate_grad_update", "check_grad_overflow", "bf16_master_weights_and_grads"),
            "bf16_optimizer_states",
        )
    ),
    "fp16": frozenset(
        (
            *("enabled", "auto_cast", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis"),
            *("consecutive_hysteresis", "min_loss_scale", "fp16_master_weights_and_grads"),
        )
    ),
}
"""Known keys of each section that is looked into."""
ADAM = frozenset(
    (
        *("lr", "betas", "eps", "weight_decay", "torch_adam", "adam_w_mode", "bias_correction", "amsgrad"),
        *("set_grad_none", "fp32_optimizer_states", "fused", "foreach"),
    )
)
"""`optimizer.params` of Adam and AdamW. DeepSpeed hands them to the optimizer's constructor, which refuses others."""
ADAM_DEFAULTS = {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0.0}
ADAM_BETAS = (0.9, 0.999)
"""What DeepSpeed's Adam takes for parameters that are not there."""
