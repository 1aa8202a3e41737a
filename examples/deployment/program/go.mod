module kerbside.dev/examples/ticker

go 1.24
