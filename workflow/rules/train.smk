# Experiments that differ only in sampling train once.
# Trains in work/ and copies the finished run; a failed or killed job goes on from its last checkpoint.
rule train:
    input:
        inputs("train"),
        shared("train", TRAININGS, "train.json"),
    output:
        model="results/{suite}/{experiment}/seed{seed}/model.safetensors",
        curve="results/{suite}/{experiment}/seed{seed}/training.csv",
        record="results/{suite}/{experiment}/seed{seed}/train.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/train.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/train.tsv"
    # One thread per training: on 2 cores two single-threaded trainings are faster than two in turn on both cores.
    # Of each device, if there are several (docs/devices.md).
    threads: config["threads"] * config["devices"]
    resources:
        mem_mb=asked("train", "memory_mb"),
        runtime=asked("train", "minutes"),
        gpu=config["gpus"] * config["devices"],
        devices=config["devices"],
        slurm_extra="--signal=USR1@120",
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
        devices=config["devices"],
        each=lambda wildcards, threads: max(1, threads // config["devices"]),
    message:
        "train {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm train {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {params.each}"
        " --devices {params.devices} -- {params.experiment:q} 2>&1 | tee {log:q}"
