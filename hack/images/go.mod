// Makes OCI image archives without a container engine.
module kerbside.dev/hack/images

go 1.26.0
