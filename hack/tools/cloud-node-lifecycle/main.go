// Command cloud-node-lifecycle runs the node lifecycle controller of Kubernetes' cloud controller managers, with a cloud that knows no machine.
//
//	cloud-node-lifecycle -kubeconfig FILE -selector LABELS -foreign error|missing -listen HOST:PORT
//
// The controller is k8s.io/cloud-provider's own, as every cloud runs it: it asks its provider about each Node that is not Ready, and deletes
// the Node of a machine that "does not exist". What a cloud says of another's machine differs: some fail on the foreign providerID, some say
// that there is no such machine; -foreign chooses. It sees only Nodes with these labels, so that one test's cloud deletes nobody else's.
//
// GET /readyz answers when the Nodes have been listed, GET /asked/NAME with how many times the provider was asked about this Node.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/controllers/nodelifecycle"
	"k8s.io/component-base/metrics/prometheus/controllers"
)

const name = "cloud-node-lifecycle"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "how to reach the cluster")
	selector := flags.String("selector", "", "labels of the Nodes that it sees")
	foreign := flags.String("foreign", "", "what the cloud says of a providerID not its own: error or missing")
	listen := flags.String("listen", "", "HOST:PORT to be asked at")
	period := flags.Duration("node-monitor-period", 200*time.Millisecond, "between two looks at all Nodes; clouds take 5s")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *foreign != "error" && *foreign != "missing" {
		return fmt.Errorf("-foreign is error or missing, not %q", *foreign)
	}
	if *selector == "" {
		return errors.New("-selector is needed: without one, every Node of the cluster would be this cloud's")
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	nodes := informer{coreinformers.NewFilteredNodeInformer(client, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.LabelSelector = *selector
	})}
	cloud := &provider{missing: *foreign == "missing", asked: map[string]int{}}
	controller, err := nodelifecycle.NewCloudNodeLifecycleController(nodes, client, cloud, *period, 1)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	server := &http.Server{Addr: *listen, Handler: answers(nodes, cloud), ReadHeaderTimeout: 10 * time.Second}
	go func() { failed <- server.ListenAndServe() }()
	go nodes.Informer().RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return errors.New("ended before the Nodes were listed")
	}
	ended := make(chan struct{})
	go func() {
		controller.Run(ctx, controllers.NewControllerManagerMetrics(name))
		close(ended)
	}()
	select {
	case err := <-failed:
		return err
	case <-ended:
		return nil
	}
}

func answers(nodes informer, cloud *provider) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !nodes.Informer().HasSynced() {
			http.Error(w, "the Nodes are not listed yet", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /asked/{node}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, cloud.count(r.PathValue("node")))
	})
	return mux
}

// informer is the one informer that the controller needs; a factory would bring those of every kind.
type informer struct{ nodes cache.SharedIndexInformer }

func (i informer) Informer() cache.SharedIndexInformer { return i.nodes }
func (i informer) Lister() corelisters.NodeLister {
	return corelisters.NewNodeLister(i.nodes.GetIndexer())
}

// provider is a cloud without a machine: every providerID is foreign to it.
type provider struct {
	missing bool
	mutex   sync.Mutex
	asked   map[string]int
}

func (p *provider) count(node string) int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.asked[node]
}

func (p *provider) InstanceExists(_ context.Context, node *v1.Node) (bool, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.asked[node.Name]++
	fmt.Printf("asked about %s (uid %s), providerID %q\n", node.Name, node.UID, node.Spec.ProviderID)
	if p.missing {
		return false, nil
	}
	return false, foreign(node)
}

func (p *provider) InstanceShutdown(_ context.Context, node *v1.Node) (bool, error) {
	return false, foreign(node)
}

func (p *provider) InstanceMetadata(_ context.Context, node *v1.Node) (*cloudprovider.InstanceMetadata, error) {
	return nil, foreign(node)
}

func foreign(node *v1.Node) error {
	return fmt.Errorf("the providerID %q is not of this cloud", node.Spec.ProviderID)
}

func (p *provider) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}
func (p *provider) InstancesV2() (cloudprovider.InstancesV2, bool)                    { return p, true }
func (p *provider) Instances() (cloudprovider.Instances, bool)                        { return nil, false }
func (p *provider) LoadBalancer() (cloudprovider.LoadBalancer, bool)                  { return nil, false }
func (p *provider) Zones() (cloudprovider.Zones, bool)                                { return nil, false }
func (p *provider) Clusters() (cloudprovider.Clusters, bool)                          { return nil, false }
func (p *provider) Routes() (cloudprovider.Routes, bool)                              { return nil, false }
func (p *provider) ProviderName() string                                              { return name }
func (p *provider) HasClusterID() bool                                                { return true }
