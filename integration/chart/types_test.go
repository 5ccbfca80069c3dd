package chart

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Types of resources that are not Kubernetes' own, as far as the chart uses them: what is not here is refused.

type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		Selector          metav1.LabelSelector `json:"selector"`
		NamespaceSelector struct {
			MatchNames []string `json:"matchNames"`
		} `json:"namespaceSelector"`
		Endpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
		} `json:"endpoints"`
	} `json:"spec"`
}

type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Record      string            `json:"record"`
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		ScaleTargetRef struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Name       string `json:"name"`
		} `json:"scaleTargetRef"`
		MinReplicaCount *int32 `json:"minReplicaCount"`
		MaxReplicaCount *int32 `json:"maxReplicaCount"`
		CooldownPeriod  *int32 `json:"cooldownPeriod"`
		Fallback        struct {
			FailureThreshold int32 `json:"failureThreshold"`
			Replicas         int32 `json:"replicas"`
		} `json:"fallback"`
		Triggers []struct {
			Type       string            `json:"type"`
			MetricType string            `json:"metricType"`
			Metadata   map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

// nackConnection is what every resource of NACK has.
type nackConnection struct {
	PreventDelete bool     `json:"preventDelete"`
	Account       string   `json:"account"`
	Servers       []string `json:"servers"`
	JSDomain      string   `json:"jsDomain"`
}

type nackStream struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		nackConnection `json:",inline"`

		Name              string   `json:"name"`
		Description       string   `json:"description"`
		Subjects          []string `json:"subjects"`
		Retention         string   `json:"retention"`
		MaxConsumers      int      `json:"maxConsumers"`
		MaxMsgsPerSubject int      `json:"maxMsgsPerSubject"`
		MaxMsgs           int      `json:"maxMsgs"`
		MaxBytes          int64    `json:"maxBytes"`
		MaxAge            string   `json:"maxAge"`
		MaxMsgSize        int      `json:"maxMsgSize"`
		Storage           string   `json:"storage"`
		Discard           string   `json:"discard"`
		Replicas          int      `json:"replicas"`
		DuplicateWindow   string   `json:"duplicateWindow"`
		SubjectTransform  *struct {
			Source string `json:"source"`
			Dest   string `json:"dest"`
		} `json:"subjectTransform"`
		DenyDelete  bool `json:"denyDelete"`
		DenyPurge   bool `json:"denyPurge"`
		AllowRollup bool `json:"allowRollup"`
	} `json:"spec"`
}

type nackConsumer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		nackConnection `json:",inline"`

		StreamName     string   `json:"streamName"`
		DurableName    string   `json:"durableName"`
		Description    string   `json:"description"`
		DeliverPolicy  string   `json:"deliverPolicy"`
		AckPolicy      string   `json:"ackPolicy"`
		AckWait        string   `json:"ackWait"`
		MaxDeliver     int      `json:"maxDeliver"`
		ReplayPolicy   string   `json:"replayPolicy"`
		MaxAckPending  int      `json:"maxAckPending"`
		PriorityPolicy string   `json:"priorityPolicy"`
		PriorityGroups []string `json:"priorityGroups"`
		PinnedTTL      string   `json:"pinnedTtl"`
		FilterSubjects []string `json:"filterSubjects"`
	} `json:"spec"`
}
