module kerbside.dev/examples/hello

go 1.24
