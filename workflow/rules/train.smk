# Experiments that differ only in sampling train once.
# Trains in work/ and copies the finished run; a failed or killed job goes on from its last checkpoint.
rule train:
    input:
        inputs("train"),
        shared_training,
    output:
        model="results/{suite}/{experiment}/seed{seed}/model.safetensors",
        curve="results/{suite}/{experiment}/seed{seed}/training.csv",
        record="results/{suite}/{experiment}/seed{seed}/train.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/train.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/train.tsv"
    # One thread per training: on 2 cores two single-threaded trainings are faster than two in turn on both cores.
    threads: config["threads"]
    resources:
        mem_mb=asked("train", "memory_mb"),
        runtime=asked("train", "minutes"),
        gpu=gpus,
        slurm_extra="--signal=USR1@120",
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
    message:
        "train {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm train {params.experiment} {params.overrides} --seed {wildcards.seed}"
        " --to {params.to} --threads {threads} 2>&1 | tee {log}"
