//go:build cilium_1.18

package main

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	mcsapiTypes "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"

	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
	service "github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/kvstore/store"
)

var serviceExports = kind{name: "service-export", base: mcsapi.ServiceExportStorePrefix, state: mcsapi.ServiceExportStorePrefix, clustered: true}

// laterKinds came after 1.16.
var laterKinds = []kind{serviceExports}

func laterKeyCreator(_ kind, cluster string, _ *uint32) store.KeyCreator {
	return mcsapi.KeyCreator(mcsapi.ClusterNameValidator(cluster), mcsapi.NamespacedNameValidator())
}

func newLaterKey(kind) store.Key { return &mcsapi.MCSAPIServiceSpec{} }

func (g generator) laterEntry(kind) store.Key { return g.serviceExport(g.word(), g.word()) }

func (g generator) laterConfig(config *types.CiliumClusterConfig) {
	if g.flip() {
		enabled := g.flip()
		config.Capabilities.ServiceExportsEnabled = &enabled
	}
}

func (g generator) serviceExport(namespace, name string) *mcsapi.MCSAPIServiceSpec {
	made := mcsapi.NewEmptyMCSAPIServiceSpec(g.cluster, namespace, name)
	made.ExportCreationTimestamp = metav1.NewTime(time.Unix(1_700_000_000+g.Int64N(100_000_000), 0).UTC())
	made.Type, made.SessionAffinity = mcsapiTypes.ClusterSetIP, corev1.ServiceAffinityNone
	if g.flip() {
		made.Type = mcsapiTypes.Headless
	}
	if g.flip() {
		made.Labels, made.Annotations = g.labels(), g.annotations()
	}
	for range g.IntN(4) {
		made.Ports = append(made.Ports, mcsapiTypes.ServicePort{
			Name: g.word(), Protocol: corev1.Protocol(g.protocol()), Port: int32(1 + g.IntN(65535)),
		})
	}
	if g.flip() {
		made.SessionAffinity = corev1.ServiceAffinityClientIP
		seconds := int32(1 + g.IntN(86400))
		made.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	return made
}

// publishedConfig says that the later kinds are published.
func publishedConfig(config *types.CiliumClusterConfig) {
	enabled := true
	config.Capabilities.ServiceExportsEnabled = &enabled
}

// announced says whether a cluster publishes a kind, by its configuration.
func announced(k kind, config types.CiliumClusterConfig) bool {
	return k.name != serviceExports.name || config.Capabilities.ServiceExportsEnabled != nil
}

func (g generator) laterPodFields(*identity.IPIdentityPair) {}

func (g generator) laterBackendFields(*service.ClusterService, string) {}
