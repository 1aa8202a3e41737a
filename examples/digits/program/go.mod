module kerbside.dev/examples/digits

go 1.24
