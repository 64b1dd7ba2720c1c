// Kvtool is a test peer: it reads, checks and writes ClusterMesh keys with Cilium's own packages, so that what
// passes here passes in a Cilium of the version it is built with. See ../README.md.
package main

import (
	"flag"
	"fmt"
	"os"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/option"
)

// A reader's own id, which no value bears: Cilium skips a check of values that bear it.
const ownClusterID = ^uint32(0)

var commands = map[string]func(args []string) error{
	"list":     list,
	"publish":  publish,
	"random":   printRandom,
	"read":     read,
	"validate": validate,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: kvtool list|publish|random|read|validate [flags]; -help lists a command's flags")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "kvtool %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// clusterFlags are what all commands share: whose keys they are.
type clusterFlags struct {
	name        string
	id          uint
	maxClusters uint
}

func (c *clusterFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&c.name, "cluster", "", "name of the cluster")
	flags.UintVar(&c.id, "cluster-id", 0, "id of the cluster")
	flags.UintVar(&c.maxClusters, "max-clusters", 255, "255 or 511")
}

// apply sets Cilium's process-wide limits; it must come before anything of Cilium's runs.
func (c *clusterFlags) apply() error {
	option.Config.ClusterID = ownClusterID
	return c.info().InitClusterIDMax()
}

func (c *clusterFlags) info() cmtypes.ClusterInfo {
	return cmtypes.ClusterInfo{Name: c.name, ID: uint32(c.id), MaxConnectedClusters: uint32(c.maxClusters)}
}
