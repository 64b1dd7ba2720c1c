//go:build cilium_1.18 || cilium_1.19 || cilium_1.20

package main

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
)

var serviceExports = kind{name: "service-export", base: mcsapi.ServiceExportStorePrefix, state: mcsapi.ServiceExportStorePrefix, clustered: true}

func (g generator) serviceExport(namespace, name string) *mcsapi.MCSAPIServiceSpec {
	made := mcsapi.NewEmptyMCSAPIServiceSpec(g.cluster, namespace, name)
	made.ExportCreationTimestamp = metav1.NewTime(time.Unix(1_700_000_000+g.Int64N(100_000_000), 0).UTC())
	made.Type, made.SessionAffinity = clusterSetIP, corev1.ServiceAffinityNone
	if g.flip() {
		made.Type = headless
	}
	if g.flip() {
		made.Labels, made.Annotations = g.labels(), g.annotations()
	}
	for range g.IntN(4) {
		made.Ports = append(made.Ports, servicePort{
			Name: g.word(), Protocol: corev1.Protocol(g.protocol()), Port: int32(1 + g.IntN(65535)),
		})
	}
	if g.flip() {
		made.SessionAffinity = corev1.ServiceAffinityClientIP
		seconds := int32(1 + g.IntN(86400))
		made.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	g.laterExportFields(made)
	return made
}
