module kerbside.dev/testbed/actor

go 1.24
