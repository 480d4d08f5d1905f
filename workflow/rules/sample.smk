# With --config shards=N a run's samples are drawn by N jobs; `sample` then only puts them together.
rule sample_shard:
    input:
        inputs("sample", train=["model.safetensors", "train.json"]),
    output:
        mark=temp("results/{suite}/{experiment}/seed{seed}/.sample-{shard}-of-{shards}"),
    log:
        "logs/{suite}/{experiment}/seed{seed}/sample-{shard}-of-{shards}.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/sample-{shard}-of-{shards}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=asked("sample", "memory_mb"),
        runtime=asked("sample", "minutes"),
        gpu=gpus,
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.mark, parent=True),
        identity=lambda wildcards: wanted("sample", wildcards.experiment, wildcards.seed),
    message:
        "sample {wildcards.experiment}, seed {wildcards.seed}, shard {wildcards.shard} of {wildcards.shards}"
    shell:
        "fdm sample {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " --shard {wildcards.shard}/{wildcards.shards} -- {params.experiment:q} 2>&1 | tee {log:q}"
        " && echo {params.identity} > {output.mark:q}"


rule sample:
    input:
        inputs("sample", train=["model.safetensors", "train.json"]),
        shards("sample"),
    output:
        samples="results/{suite}/{experiment}/seed{seed}/samples.npy",
        grid=report(
            "results/{suite}/{experiment}/seed{seed}/grid.png",
            caption="../report/grid.rst",
            category="Samples",
            labels={"experiment": "{experiment}", "seed": "{seed}"},
        ),
        trajectory="results/{suite}/{experiment}/seed{seed}/trajectory.npz",
        record="results/{suite}/{experiment}/seed{seed}/sample.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/sample.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/sample.tsv"
    threads: config["threads"]
    resources:
        mem_mb=asked("sample", "memory_mb"),
        runtime=asked("sample", "minutes"),
        gpu=gpus,
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
    message:
        "sample {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm sample {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " -- {params.experiment:q} 2>&1 | tee {log:q}"
