// Checks of the charts: schemas for kubeconform, and values, schema and README against each other.
module kerbside.dev/hack/charts

go 1.26.0

require sigs.k8s.io/yaml v1.6.0

require go.yaml.in/yaml/v2 v2.4.2 // indirect
