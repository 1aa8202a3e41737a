module kerbside.dev/examples/service

go 1.24
