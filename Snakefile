# The whole benchmark: data -> train -> sample -> evaluate for every experiment and seed of one suite, then the report.
#
#   snakemake                                    the default suite
#   snakemake --config suite=cifar10             another one: params/suites/cifar10.yaml
#   snakemake --config "overrides=training.images=2000 sampling.count=300"
#   snakemake data | results                     stop earlier
#
# docs/workflow.md tells more. Options that always apply are in workflow/profiles/default.
from snakemake.utils import min_version

min_version("9.27")


# Read only under --software-deployment-method apptainer; otherwise jobs use the environment that Snakemake runs in.
container: "docker://python:3.11"


include: "workflow/rules/common.smk"
include: "workflow/rules/driver.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/restore.smk"
include: "workflow/rules/explore.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    data,
    results,


rule all:
    default_target: True
    input:
        report_page,
        metrics,


rule data:
    input:
        lambda _: data(*DATASETS),


rule results:
    input:
        metrics,


onstart:
    claim_working_tree()


onsuccess:
    stop_clocks()


onerror:
    stop_clocks()
