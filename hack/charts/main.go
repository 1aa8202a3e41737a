// Command charts checks what helm itself does not.
//
//	charts schemas -openapi FILE -crds DIR -out DIR   JSON schemas for kubeconform, one per kind
//	charts values -chart DIR [-write]                 values.yaml, values.schema.json and README.md say the same
//	charts rendered FILE...                           what helm rendered keeps the chart's promises: rights, Pods' security
//	charts readers FILE...                            the namespaces whose Secrets and tokens the adapter may read, a line each
//
// Called by check.sh. It talks to no network: Kubernetes' own schemas come with the module that kube-apiserver is built from.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "charts:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: charts schemas|values|rendered|readers ...")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	switch args[0] {
	case "schemas":
		openapi := flags.String("openapi", "", "Kubernetes' swagger.json")
		crds := flags.String("crds", "", "folder with CustomResourceDefinitions")
		out := flags.String("out", "", "folder to write to")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return writeSchemas(*openapi, *crds, *out)
	case "values":
		chart := flags.String("chart", "", "folder of the chart")
		write := flags.Bool("write", false, "write the table in README.md instead of checking it")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return checkValues(*chart, *write)
	case "readers":
		for _, file := range args[1:] {
			objects, err := readObjects(file)
			if err != nil {
				return err
			}
			for _, namespace := range readers(objects) {
				fmt.Println(namespace)
			}
		}
		return nil
	case "rendered":
		for _, file := range args[1:] {
			if err := checkRendered(file); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("there is no command %q; the commands are schemas, values, rendered and readers", args[0])
}
